"""Run by LeRobot's Python: one policy and batch through the plugin and through rdvla; writes both results.

python compare_policies.py OURS THEIRS OUTPUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

import lerobot_policy_rdvla
import rdvla
from rdvla.policy.batch import Batch
from rdvla.processing.cameras import camera_key
from rdvla.training.batches import Draw, step_generator
from rdvla.training.config import TrainConfig
from rdvla.training.objectives import Objective
from rdvla.training.optimization import TrainingState
from rdvla.types import Observation

BATCH, STEPS, UPDATES, DEPTH = 3, 9, 12, 5


def observations(policy: rdvla.RDVLAPolicy, number: int) -> Observation:
    """A batch with images in the sizes that the cameras record."""
    generator = torch.Generator().manual_seed(number)
    config = policy.config
    images = {}
    for camera in config.cameras:
        height, width = config.camera_sizes.get(camera, (config.image_size, config.image_size))
        images[camera] = torch.randint(
            0, 256, (BATCH, height, width, 3), dtype=torch.uint8, generator=generator
        )
    state = torch.randn(BATCH, config.state_dim, generator=generator)
    return Observation(images, state, ["push the puck", "open the drawer", "push the puck"])


def as_lerobot(observation: Observation) -> dict[str, object]:
    """What LeRobot's datasets and environments give: floats in 0..1, colours first."""
    images = {
        camera_key(camera): image.movedim(-1, 1).float() / 255 for camera, image in observation.images.items()
    }
    return {**images, "observation.state": observation.state.clone(), "task": list(observation.instruction)}


def training(
    ours: rdvla.RDVLAPolicy, theirs: torch.nn.Module, before: object
) -> tuple[list[list[float]], list[list[float]]]:
    """Loss, gradient norm and learning rate of updates on the same batches, by rdvla and by LeRobot."""
    state = TrainingState(ours, TrainConfig(dataset="none", steps=UPDATES))
    optimizer = theirs.config.get_optimizer_preset().build(theirs.get_optim_params())
    schedule = theirs.config.get_scheduler_preset().build(optimizer, UPDATES)
    clip = theirs.config.get_optimizer_preset().grad_clip_norm
    mine, others = [], []
    for step in range(UPDATES):
        observation, actions, is_pad = samples(ours, step)
        batch = Batch(
            features=ours.frozen_inputs(ours.config.fits(observation)),
            state=ours.normalize_state(observation.state),
            actions=ours.action_normalizer.normalize(actions),
            action_is_pad=is_pad,
        )
        draw = Draw(step=step, frames=torch.empty(0), depth=DEPTH, generator=step_generator(0, step))
        loss = Objective(proprio_noise=0.1).loss(ours, batch, draw).total
        state.clear_gradient()
        loss.backward()
        norm = state.clip_gradient()
        mine.append([loss.item(), norm.item(), state.follow_gradient(step)])

        given = {**as_lerobot(observation), "action": actions, "action_is_pad": is_pad}
        loss, figures = theirs(before(given), generator=step_generator(0, step), depth=DEPTH)
        assert figures["depth"] == DEPTH
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        others.append([loss.item(), norm.item(), optimizer.param_groups[0]["lr"]])
        optimizer.step()
        schedule.step()
    return mine, others


def samples(policy: rdvla.RDVLAPolicy, step: int) -> tuple[Observation, torch.Tensor, torch.Tensor]:
    """A batch of an update: what is seen, chunks in the robot's units, and where the episode is over."""
    head, generator = policy.config.head, torch.Generator().manual_seed(step)
    actions = torch.randn(BATCH, head.chunk_size, head.action_dim, generator=generator)
    is_pad = torch.zeros(BATCH, head.chunk_size, dtype=torch.bool)
    is_pad[1, 2:] = True
    return observations(policy, 100 + step), actions, is_pad


def acts(
    ours: rdvla.RDVLAPolicy, theirs: torch.nn.Module, before: object, after: object
) -> tuple[np.ndarray, ...]:
    """Actions of several control steps: of both policies, with the same noise."""
    both = []
    ours.reset()
    torch.manual_seed(3)
    both.append([ours.select_action(observations(ours, step)).numpy() for step in range(STEPS)])
    theirs.reset()
    torch.manual_seed(3)
    with torch.inference_mode():
        both.append(
            [
                after(theirs.select_action(before(as_lerobot(observations(ours, step))))).numpy()
                for step in range(STEPS)
            ]
        )
    return tuple(np.stack(each) for each in both)


def main(folder: str, lerobot_folder: str, output: str) -> None:
    """Compare, and write `<what>_ours` and `<what>_theirs`."""
    ours = rdvla.RDVLAPolicy.from_pretrained(folder)
    config = PreTrainedConfig.from_pretrained(
        lerobot_folder, cli_overrides=["--device=cpu", "--proprio_noise=0.1"]
    )
    assert isinstance(config, lerobot_policy_rdvla.RDVLAConfig)
    theirs = get_policy_class(config.type).from_pretrained(lerobot_folder, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=lerobot_folder)
    actions = acts(ours, theirs, before, after)
    chunk = theirs.predict_action_chunk(before(as_lerobot(observations(ours, 0))))
    updates = training(ours.train(), theirs.train(), before)
    theirs.save_pretrained(Path(output).with_suffix(""))
    before.save_pretrained(Path(output).with_suffix(""))
    after.save_pretrained(Path(output).with_suffix(""))
    np.savez(
        output, actions_ours=actions[0], actions_theirs=actions[1], updates_ours=updates[0],
        updates_theirs=updates[1],
        chunk_shape=chunk.shape,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
