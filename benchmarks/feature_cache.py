"""A training step from the feature cache against one through the frozen backbone, at the paper's size.

    python -m benchmarks.feature_cache --output runs/bench/feature_cache.json

Random weights of the published sizes in bfloat16, two cameras of 256 pixels, the paper's head in float32. A
step is a whole update of `rdvla train`: batch, loss at a fixed depth, gradient, AdamW, average. Both ways
take turns on the same frames. Then one and two processes fill a cache; each computes with one thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.data_loading import CAMERAS, CHUNK, JOINTS, make_dataset
from benchmarks.harness import Spread, hardware, interleave, paired_ratio
from rdvla.backbone import PrismaticBackbone, PrismaticConfig
from rdvla.backbone.prismatic.prompt import CHAT_TOKENS, PROMPT
from rdvla.data import EpisodeDataset, FeatureCache
from rdvla.data.feature_cache import Encode, Filling
from rdvla.data.feature_plan import SHARD_BYTES
from rdvla.files import read_json, write_json
from rdvla.heads import RecurrentConfig
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.training import TrainConfig, Trainer
from rdvla.training.batches import BatchSource
from rdvla.training.config import DataConfig, DepthConfig, OptimizerConfig
from rdvla.training.features import FEATURES, FrozenFeatures, FrozenInputs
from rdvla.training.filling import Crew, ShardRunner, open_frozen
from rdvla.workers import LocalProcesses

CACHED, THROUGH = "from the cache", "through the backbone"
SHARD_FRAMES = 4  # of the caches that processes fill: small, so each gets several
PIXELS = 256
EPISODES = 2
VOCABULARY = 512  # tokens


@dataclass(frozen=True)
class Live(FrozenFeatures):
    """Frozen inputs that are computed whenever they are asked for."""

    dataset: EpisodeDataset
    encode: Encode

    def get(self, frames: Any) -> dict[str, Tensor]:
        """See `FrozenFeatures.get`."""
        found = self.encode(self.dataset.images(frames), self.dataset.instructions(frames))
        return {name: found[kept].float() for name, kept in self.stored_as.items()}


def save_policy(folder: Path, *, backbone: PrismaticConfig, head: RecurrentConfig) -> PolicyConfig:
    """Write a policy with random weights, and a tokenizer of its own."""
    config = PolicyConfig(
        execution=f"fixed:{CHUNK}", backbone=backbone, head=head, cameras=CAMERAS, image_size=PIXELS,
        state_dim=JOINTS,
    )  # fmt: skip
    bounds = {"q01": [-1.0] * JOINTS, "q99": [1.0] * JOINTS}
    torch.manual_seed(0)
    policy = RDVLAPolicy(config, {"action": bounds, "observation.state": bounds})
    assert isinstance(policy.backbone, PrismaticBackbone)
    _save_tokenizer(folder / "tokenizer")
    policy.backbone.load_tokenizer_from(folder / "tokenizer")
    policy.save_pretrained(folder)
    return config


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[end, *CHAT_TOKENS], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([PROMPT] * 5, trainer)  # so a prompt is about as long as it is for Qwen
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=end, pad_token=end, additional_special_tokens=list(CHAT_TOKENS)
    )  # fmt: skip
    fast.save_pretrained(folder)
    described = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", described | {"tokenizer_class": "Qwen2Tokenizer"})


def make_config(folder: Path, policy: PolicyConfig, *, batch_size: int, depth: int) -> TrainConfig:
    """Return the configuration of the run whose updates are timed."""
    return TrainConfig(
        dataset=str(folder / "dataset"), output_dir=str(folder / "run"), policy=policy,
        init_from=str(folder / "policy"), freeze_backbone=True, batch_size=batch_size, trackers=(),
        depth=DepthConfig(distribution="constant", mean=depth), optimizer=OptimizerConfig(warmup_steps=1),
        data=DataConfig(validation_fraction=0, cache_batch_size=batch_size),
    )  # fmt: skip


def time_steps(config: TrainConfig, *, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of updates, by where the features come from; both ways see the same draws."""
    trainer = Trainer(config, console=Console(quiet=True))
    inputs = FrozenInputs.of(trainer.policy.eval(), trainer.dataset)
    trainer.policy.train()
    live = Live(inputs.stored_as, None, None, (), dataset=trainer.dataset, encode=inputs.encode)
    sources = {
        CACHED: trainer.source,
        THROUGH: BatchSource(trainer.dataset, live, policy=trainer.policy),
    }
    steps: dict[str, Iterator[int]] = {name: iter(range(rounds + 1)) for name in sources}

    def update(name: str) -> None:
        trainer.source = sources[name]
        trainer.update(trainer.sampler.draw(next(steps[name])))

    return interleave({name: partial(update, name) for name in sources}, rounds=rounds)


def time_filling(config: TrainConfig, folder: Path, *, processes: int) -> float:
    """Return the samples a second of processes that fill a new cache, once each has begun to compute.

    The time until the first batch, in which processes load the policy, is left out.
    """
    policy, dataset = open_frozen(config)
    inputs = FrozenInputs.of(policy.eval(), dataset)
    times: list[tuple[float, int]] = []
    crew = Crew(ShardRunner(config, folder), LocalProcesses(), processes)
    FeatureCache.open_or_build(
        dataset,
        dataset.sample_index,
        inputs.encode,
        key=policy.cache_key(),
        directory=folder,
        filling=Filling(
            fill=partial(crew.fill, FEATURES),
            frame_bytes=SHARD_BYTES // SHARD_FRAMES,
            progress=lambda done, _total: times.append((time.perf_counter(), done)),
        ),
    )
    # The last process to begin: all have a batch by then.
    begun = next(entry for entry in times if entry[1] >= processes * config.data.cache_batch_size)
    return (times[-1][1] - begun[1]) / (times[-1][0] - begun[0])


def prepare(
    folder: Path, *, backbone: PrismaticConfig, head: RecurrentConfig, samples: int, batch_size: int,
    depth: int,
) -> TrainConfig:  # fmt: skip
    """Write dataset and policy into a folder; return the configuration of the run that is timed."""
    make_dataset(folder / "dataset", episodes=EPISODES, length=samples // EPISODES, size=(PIXELS, PIXELS))
    policy = save_policy(folder / "policy", backbone=backbone, head=head)
    return make_config(folder, policy, batch_size=batch_size, depth=depth)


def measure(
    config: TrainConfig, folder: Path, *, rounds: int, processes: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Measure steps, then filling; yield what the JSON file says after each."""
    load = [os.getloadavg()[0]]
    times = time_steps(config, rounds=rounds)
    load.append(os.getloadavg()[0])
    result = {
        "schema": 1,
        "hardware": hardware(),
        "load_averages": load,
        "batch_size": config.batch_size,
        "depth": config.depth.mean,
        "rounds": rounds,
        "steps": {name: vars(Spread.of(own)) for name, own in times.items()},
        "ratio": vars(paired_ratio(times[THROUGH], times[CACHED])),
        "filling": [],
    }
    yield result
    alone = replace(config, data=replace(config.data, cache_batch_size=1))
    for count in processes:
        rate = time_filling(alone, folder / f"filled-by-{count}", processes=count)
        result["filling"].append({"processes": count, "samples_per_second": rate})
        load.append(os.getloadavg()[0])
        yield result


def tables(result: dict[str, Any]) -> Iterator[str]:
    """Format a result as the tables of docs/train-faster.md."""
    yield f"| features | ms per step (quartiles), batch {result['batch_size']}, n = {result['rounds']} |"
    yield "|---|---|"
    for name, spread in result["steps"].items():
        yield f"| {name} | {spread['median']:,.0f} ({spread['low']:,.0f}-{spread['high']:,.0f}) |"
    ratio = result["ratio"]
    yield f"| ratio | **{ratio['median']:.0f}** ({ratio['low']:.0f}-{ratio['high']:.0f}) |"
    yield ""
    yield "| processes | samples a second while a cache is filled |"
    yield "|---|---|"
    for row in result["filling"]:
        yield f"| {row['processes']} | {row['samples_per_second']:.2f} |"
    yield ""
    load = ", ".join(f"{value:.1f}" for value in result["load_averages"])
    cpu, cores = result["hardware"]["cpu"], result["hardware"]["cores"]
    yield f"{cpu}, {cores} cores; load averages on the way: {load}"


def paper_head(backbone: PrismaticConfig) -> RecurrentConfig:
    """Return the paper's head, which reads the backbone's two levels."""
    middle, late = backbone.levels
    return RecurrentConfig(action_dim=JOINTS, prelude=(middle,), core=(late, late), coda=(late,))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the JSON file and the tables next to it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feature_cache", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/feature_cache.json"))
    parser.add_argument("--samples", type=int, default=32, help="frames of the dataset")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=32, help="iterations of a step")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder, backbone = Path(name), PrismaticConfig()
        config = prepare(
            folder, backbone=backbone, head=paper_head(backbone), samples=options.samples,
            batch_size=options.batch_size, depth=options.depth,
        )  # fmt: skip
        for result in measure(config, folder, rounds=options.rounds, processes=options.processes):
            text = "\n".join(tables(result))  # after each measurement, as one takes minutes
            write_json(options.output, result)
            options.output.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")
            print(f"{text}\n\nwritten: {options.output}", flush=True)


if __name__ == "__main__":
    main()
