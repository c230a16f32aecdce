"""What an observation accepts, and how batches are joined and taken apart."""

import numpy as np
import pytest
import torch

from rdvla.errors import RDVLAError
from rdvla.types import Observation, Prediction, Trace
from tests.support.tiny_models import SIZE, make_observation


def same(one: Observation, other: Observation) -> bool:
    return (
        one.images.keys() == other.images.keys()
        and all(torch.equal(image, other.images[camera]) for camera, image in one.images.items())
        and torch.equal(one.state, other.state)
        and list(one.instruction) == list(other.instruction)
    )


def test_select_undoes_collate() -> None:
    first, second = make_observation(2, seed=1), make_observation(3, seed=2)
    joined = Observation.collate([first, second])
    assert joined.batch_size == 5
    assert same(joined.select([0, 1]), first)
    assert same(joined.select([2, 3, 4]), second)


def test_select_keeps_the_given_order() -> None:
    batch = make_observation(4)
    turned = batch.select([3, 0])
    assert turned.instruction == [batch.instruction[3], batch.instruction[0]]
    assert torch.equal(turned.state, batch.state[[3, 0]])
    assert torch.equal(turned.images["wrist"][0], batch.images["wrist"][3])


def test_nothing_to_collate() -> None:
    with pytest.raises(ValueError, match="no observation"):
        Observation.collate([])


def test_cameras_must_agree_in_a_batch() -> None:
    one = make_observation(1)
    other = Observation(images={"front": one.images["front"]}, state=one.state, instruction=one.instruction)
    with pytest.raises(ValueError, match="same cameras"):
        Observation.collate([one, other])


IMAGE = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
STATE = torch.zeros(2, 3)
TWO = ["push", "pull"]


@pytest.mark.parametrize(
    ("images", "state", "instruction", "message"),
    [
        ({"front": IMAGE}, STATE, "push", r"state must be \(S,\) to go with a single instruction"),
        ({"front": IMAGE}, STATE[0], TWO, "state must be"),
        ({"front": IMAGE}, STATE[:1], TWO, "state must be"),
        ({"front": IMAGE[0]}, STATE, TWO, r"images\['front'\] must be \(2, height, width, 3\)"),
        ({"front": IMAGE}, STATE[0], "push", r"images\['front'\] must be \(height, width, 3\)"),
        ({"front": IMAGE, "side": IMAGE[:1]}, STATE, TWO, r"images\['side'\]"),
        ({"front": IMAGE[:1], "side": IMAGE}, STATE[:1], ["push"], r"images\['side'\] must be \(1,"),
        ({"front": IMAGE[:0]}, STATE[:0], [], "an empty batch"),
    ],
)
def test_bad_observations_are_explained(
    images: dict[str, torch.Tensor], state: torch.Tensor, instruction: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Observation(images=images, state=state, instruction=instruction)


def test_observations_of_unequal_sizes_do_not_share_a_batch() -> None:
    one, other = (Observation({"front": IMAGE[:1, :, :w]}, STATE[:1], ["push"]) for w in (8, 4))
    with pytest.raises(RDVLAError, match=r"images\['front'\] is \(8, 8, 3\) in one and \(8, 4, 3\)"):
        Observation.collate([one, other])


def test_tensors_and_arrays_share_a_batch() -> None:
    batch = make_observation(2)
    assert same(Observation.collate([batch.select([0]).numpy(), batch.select([1])]), batch)


CHECKS = {"cameras": ("wrist", "front"), "image_size": SIZE, "state_dim": 3}


def test_a_missing_camera_names_the_nearest() -> None:
    with pytest.raises(RDVLAError, match=r"lacks the camera 'wirst'.*Did you mean 'wrist'"):
        make_observation(1).check(**CHECKS | {"cameras": ("wirst",)})


@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": SIZE + 1}, "the policy was trained on"),
        ({"state_dim": 9}, "takes 9 numbers of proprioception, got 3"),
    ],
)
def test_sizes_that_a_policy_does_not_take_are_explained(
    library: str, change: dict[str, int], message: str
) -> None:
    observation = getattr(make_observation(2), library)()
    observation.check(**CHECKS)
    with pytest.raises(RDVLAError, match=message):
        observation.check(**CHECKS | change)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_single_observation_is_a_batch_of_one_without_its_dimension(library: str) -> None:
    batch = getattr(make_observation(1), library)()
    single = Observation(
        {camera: image[0] for camera, image in batch.images.items()}, batch.state[0], batch.instruction[0]
    )
    assert batch.is_batch and not single.is_batch and single.batch_size == 1
    assert same(single.batched().torch(), batch.torch())
    single.check(**CHECKS)
    assert same(Observation.collate([single, batch]).torch(), batch.select([0, 0]).torch())


def test_torch_and_numpy_convert_into_each_other_without_copies() -> None:
    batch = make_observation(2)
    arrays = batch.numpy()
    assert isinstance(arrays.state, np.ndarray) and same(arrays.torch(), batch)
    arrays.state[0, 0] = 42
    assert batch.state[0, 0] == 42


def test_a_sample_of_a_prediction_has_no_batch_dimension() -> None:
    trace = Trace(torch.zeros(5, 2, 4, 3), {"action_change": torch.arange(10.0).view(5, 2)})
    prediction = Prediction(
        torch.zeros(2, 4, 3), torch.tensor([3, 5]), torch.tensor([True, False]), torch.ones(2, 4, 8), trace
    )
    one = prediction.sample(1)
    assert one.actions.shape == (4, 3) and one.state.shape == (4, 8) and int(one.depth) == 5
    assert one.trace.actions.shape == (5, 4, 3) and one.trace.action_change.tolist() == [1, 3, 5, 7, 9]
    assert prediction.select([1, 0]).depth.tolist() == [5, 3]
    doubled = prediction.with_actions(lambda actions: actions + 2)
    assert doubled.actions.min() == doubled.trace.actions.min() == 2
