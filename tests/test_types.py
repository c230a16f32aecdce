"""What an observation accepts, and how batches are joined and taken apart."""

import pytest
import torch

from rdvla.errors import RDVLAError
from rdvla.processing import check_images
from rdvla.types import Observation
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
        ({"front": IMAGE}, STATE, "push", r"wrap a single one as \[sentence\]"),
        ({"front": IMAGE}, STATE[0], TWO, "state must be"),
        ({"front": IMAGE}, STATE[:1], TWO, "state must be"),
        ({"front": IMAGE.float()}, STATE, TWO, r"images\['front'\].*uint8, got .*float32"),
        ({"front": IMAGE[0]}, STATE, TWO, r"images\['front'\]"),
        ({"front": IMAGE, "side": IMAGE[:1]}, STATE, TWO, r"images\['side'\]"),
        ({"front": IMAGE.permute(0, 3, 1, 2)}, STATE, TWO, r"images\['front'\].*height, width, 3"),
    ],
)
def test_bad_observations_are_explained(
    images: dict[str, torch.Tensor], state: torch.Tensor, instruction: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Observation(images=images, state=state, instruction=instruction)


def test_images_are_stacked_in_the_policys_order() -> None:
    images = make_observation(2).images
    stacked = check_images(images, cameras=("wrist", "front"), image_size=SIZE)
    assert stacked.shape == (2, 2, SIZE, SIZE, 3) and stacked.dtype == torch.uint8
    assert torch.equal(stacked[:, 0], images["wrist"]) and torch.equal(stacked[:, 1], images["front"])


def test_a_missing_camera_names_the_nearest() -> None:
    with pytest.raises(RDVLAError, match=r"lacks the camera 'wirst'.*Did you mean 'wrist'"):
        check_images(make_observation(1).images, cameras=("wirst",), image_size=SIZE)


def test_a_wrong_size_is_not_resized() -> None:
    tall = {"front": torch.zeros(1, 48, SIZE, 3, dtype=torch.uint8)}
    with pytest.raises(RDVLAError, match=r"'front' gives 32x48 images.*32x32"):
        check_images(tall, cameras=("front",), image_size=SIZE)
