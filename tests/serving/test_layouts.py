"""What clients send, in openpi's words, becomes an observation or a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from rdvla.errors import ConfigError, InputError
from rdvla.policy.config import RobotConfig
from rdvla.serving import Layout, LayoutMapping
from rdvla.serving.loading import load_policy
from tests.support.serving import make_facts, make_message

RNG = np.random.default_rng(0)
LIBERO_NAMES = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper")


def picture(size: int = 8) -> np.ndarray:
    return RNG.integers(256, size=(size, size, 3), dtype=np.uint8)


def libero(**changes):
    return make_facts(**{"cameras": ("agentview", "wrist"), "state_dim": 8} | changes)


def droid(**changes):
    cameras = ("exterior_image_1_left", "wrist_image_left")
    return make_facts(**{"cameras": cameras, "state_dim": 8} | changes)


def aloha(**changes):
    cameras = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    return make_facts(**{"cameras": cameras, "state_dim": 14} | changes)


def libero_message(size: int = 8, **changes):
    """As openpi's examples/libero/main.py makes it."""
    return {
        "observation/image": picture(size),
        "observation/wrist_image": picture(size),
        "observation/state": np.concatenate([RNG.random(3), RNG.random(3), RNG.random(2)]),
        "prompt": "push the puck",
    } | changes


def test_liberos_messages():
    layout = Layout.of(libero(), "libero")
    message = libero_message()
    found = layout.read(message)
    np.testing.assert_array_equal(found.images["agentview"], message["observation/image"])
    np.testing.assert_array_equal(found.images["wrist"], message["observation/wrist_image"])
    np.testing.assert_allclose(found.state, message["observation/state"], rtol=1e-6)
    assert found.instruction == "push the puck"


@pytest.mark.parametrize("gripper", [np.array([0.25]), 0.25, np.float64(0.25), np.array(0.25)])
def test_droids_messages(gripper):
    """openpi takes the gripper as one number or as an array of one."""
    joints = RNG.random(7)
    message = {
        "observation/exterior_image_1_left": picture(),
        "observation/wrist_image_left": picture(),
        "observation/joint_position": joints,
        "observation/gripper_position": gripper,
        "prompt": "push the puck",
    }
    found = Layout.of(droid(), "droid").read(message)
    np.testing.assert_allclose(found.state, [*joints, 0.25], rtol=1e-6)
    np.testing.assert_array_equal(found.images["wrist_image_left"], message["observation/wrist_image_left"])


def test_alohas_messages_have_nested_images_with_the_colours_first():
    images = {
        name: picture().transpose(2, 0, 1) for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")
    }
    images["cam_low"] = picture().transpose(2, 0, 1)  # the policy does without
    message = {"state": np.ones(14), "images": images, "prompt": "push the puck"}
    found = Layout.of(aloha(), "aloha").read(message)
    for name, image in found.images.items():
        np.testing.assert_array_equal(image, images[name].transpose(1, 2, 0))
    assert set(found.images) == {"cam_high", "cam_left_wrist", "cam_right_wrist"}


def test_floats_become_grey_levels_as_in_openpi():
    layout = Layout.of(libero(), "libero")
    for dtype in (np.float32, np.float64):
        floats = RNG.random((3, 8, 8)).astype(dtype)
        floats[0, 0, :2] = 0.0, 1.0
        found = layout.read(libero_message(**{"observation/image": floats})).images["agentview"]
        np.testing.assert_array_equal(found, (255 * floats).astype(np.uint8).transpose(1, 2, 0))


@pytest.mark.parametrize("prompt", ["push", np.str_("push"), np.array("push"), np.array(["push"])])
def test_a_prompt_may_be_an_array_of_one_text(prompt):
    assert Layout.of(libero(), "libero").read(libero_message(prompt=prompt)).instruction == "push"


def test_the_native_layout_has_the_policys_names_flat_or_nested():
    layout = Layout.of(make_facts(), "auto")
    flat = make_message()
    nested = {
        "images": {"front": flat["images/front"], "wrist": flat["images/wrist"]},
        "state": flat["state"].tolist(),
        "prompt": flat["prompt"],
    }
    assert layout.name == "native"
    one, other = layout.read(flat), layout.read(nested)
    for camera in ("front", "wrist"):
        np.testing.assert_array_equal(one.images[camera], flat[f"images/{camera}"])
        np.testing.assert_array_equal(one.images[camera], other.images[camera])
    np.testing.assert_array_equal(one.state, other.state)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (libero(), "libero"),
        (libero(cameras=("image", "wrist_image")), "libero"),
        (libero(robot=RobotConfig(state_names=LIBERO_NAMES)), "libero"),
        # Eight numbers of another meaning, or another robot's cameras.
        (libero(robot=RobotConfig(state_names=(*(f"joint{i}" for i in range(7)), "gripper"))), "native"),
        (libero(state_dim=7), "native"),
        (libero(cameras=("agentview", "image")), "native"),
        (droid(), "droid"),
        (aloha(), "aloha"),
        (aloha(cameras=("cam_high",)), "aloha"),
        (make_facts(), "native"),
    ],
)
def test_a_policy_is_recognised_by_cameras_and_proprioception(facts, name):
    assert Layout.of(facts, "auto").name == name


@pytest.mark.parametrize("name", ["libero_10", "libero_spatial"])
def test_the_libero_policies_that_ship_are_recognised(name):
    facts = load_policy(f"policies/{name}", name=name).facts
    layout = Layout.of(facts, "auto")
    assert layout.name == "libero"
    found = layout.read(libero_message(128))
    assert list(found.images) == ["agentview", "wrist"]


@pytest.mark.parametrize(
    ("facts", "name", "sentence"),
    [
        (make_facts(), "libero", r"which of observation/image, .* is the policy's camera 'front'\? Say so"),
        (libero(state_dim=7), "libero", r"send 8 numbers .* the policy takes 7: .*--mapping.state"),
        (make_facts(), "libreo", r"unknown layout 'libreo'.* Did you mean 'libero'\?"),
        (
            libero(robot=RobotConfig(state_names=tuple("abcdefgh"))),
            "libero",
            r"send x, y, z.* trained on a, b, c.* --mapping.state '\[observation/state\]'",
        ),
        (aloha(cameras=("cam_high", "cam_hihg")), "aloha", "is the policy's camera 'cam_hihg'"),
        (libero(cameras=("agentview", "image")), "libero", "'agentview' and 'image' would both be"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_at_the_start(facts, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Layout.of(facts, name)


def test_a_mapping_gives_each_camera_and_the_proprioception_its_keys():
    mapping = LayoutMapping(
        images={"front": "cams/base", "wrist": "hand"},
        state=("arm", "gripper"),
        instruction="task",
        default_instruction="push",
        rotate=("wrist",),
    )
    layout = Layout.of(make_facts(), "native", mapping)
    base, hand = picture(), picture()
    message = {"cams": {"base": base}, "hand": hand, "arm": 1.5, "gripper": [2]}
    found = layout.read(message)
    np.testing.assert_array_equal(found.images["front"], base)
    np.testing.assert_array_equal(found.images["wrist"], np.rot90(hand, 2))
    np.testing.assert_array_equal(found.state, [1.5, 2.0])
    assert found.instruction == "push"
    assert layout.read(message | {"task": "pull"}).instruction == "pull"


def test_a_preset_with_other_camera_names_needs_a_mapping_alone():
    mapping = LayoutMapping(images={"front": "observation/image"})
    layout = Layout.of(libero(cameras=("front", "wrist")), "libero", mapping)
    assert dict(layout.images) == {"front": "observation/image", "wrist": "observation/wrist_image"}


def test_a_mapping_of_a_camera_that_is_not_there_names_the_nearest():
    for mapping in (LayoutMapping(images={"wirst": "x"}), LayoutMapping(rotate=("wirst",))):
        with pytest.raises(ConfigError, match=r"names 'wirst'.*Did you mean 'wrist'\?"):
            Layout.of(make_facts(), "native", mapping)


def test_images_of_another_size_are_scaled_only_if_that_is_asked_for():
    with pytest.raises(InputError, match=r"'observation/image' is 224x224 .* trained on 128x128.*resize"):
        Layout.of(libero(size=128), "libero").read(libero_message(224))
    layout = Layout.of(libero(size=128), "libero", LayoutMapping(resize=True))
    plain = np.full((224, 224, 3), 77, dtype=np.uint8)
    found = layout.read(libero_message(224, **{"observation/image": plain})).images["agentview"]
    assert found.shape == (128, 128, 3)
    assert (found == 77).all()
    with pytest.raises(InputError, match="is 12x8 pixels"):
        layout.read(libero_message(128, **{"observation/image": np.zeros((8, 12, 3), np.uint8)}))


def test_a_camera_of_known_proportions_may_have_any_size_of_them():
    layout = Layout.of(make_facts(sizes={"front": (6, 8)}), "native")
    image = RNG.integers(256, size=(12, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(layout.read(make_message(**{"images/front": image})).images["front"], image)
    with pytest.raises(InputError, match="gives 8x8 images, the policy was trained on 8x6"):
        layout.read(make_message())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images/front": np.zeros((8, 8), np.uint8)}, r"'images/front' must be one image.*got \(8, 8\)"),
        ({"images/front": np.zeros((2, 8, 8, 3), np.uint8)}, r"must be one image"),
        ({"images/front": np.zeros((8, 8, 4), np.uint8)}, r"must be one image.*\(8, 8, 4\)"),
        ({"images/front": np.zeros((8, 8, 3), np.int64)}, "must be uint8, or floats in 0..1, got int64"),
        ({"images/front": np.full((8, 8, 3), 2.0)}, "floats from 1 to 2: they must be in 0..1"),
        ({"images/front": np.full((8, 8, 3), np.nan)}, "they must be in 0..1"),
        ({"images/front": "a.png"}, "must be an image.*got str"),
        ({"images/front": np.zeros((4000, 4000, 3), np.uint8)}, "is 4000x4000 pixels, this server takes"),
        ({"state": np.zeros(3)}, r"'state' must be a list of numbers, \(2,\), got \(3,\)"),
        ({"state": np.array([1.0, np.inf])}, "'state': NaN or infinite numbers"),
        ({"state": "left"}, "'state' must hold numbers|'state' must be"),
        ({"state": {"a": 1}}, "'state' must"),
        ({"state": np.zeros((1, 2))}, r"got \(1, 2\)"),
        ({"prompt": b"push"}, "'prompt' must be a text, got bytes"),
        ({"prompt": np.array(["a", "b"])}, "'prompt' must be a text, got ndarray"),
    ],
)
def test_what_does_not_fit_is_told_by_its_key(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        Layout.of(make_facts(), "native").read(make_message() | changes)


def test_droids_numbers_are_counted_key_by_key():
    message = {
        "observation/exterior_image_1_left": picture(), "observation/wrist_image_left": picture(),
        "observation/joint_position": np.zeros(6), "observation/gripper_position": np.zeros(2), "prompt": "x",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"'observation/joint_position' must .*\(7,\), got \(6,\)"):
        Layout.of(droid(), "droid").read(message)


def test_a_missing_key_names_the_nearest_and_what_the_layout_takes():
    message = libero_message()
    message["observation/images"] = message.pop("observation/image")
    with pytest.raises(
        InputError, match=r"lacks 'observation/image'.*Did you mean 'observation/images'"
    ) as told:
        Layout.of(libero(), "libero").read(message)
    assert "The layout libero of this policy takes" in str(told.value)
    del message["prompt"]
    message["observation/image"] = picture()
    with pytest.raises(InputError, match=r"lacks 'prompt'.*--mapping.default_instruction"):
        Layout.of(libero(), "libero").read(message)


def test_a_message_has_room_for_every_legal_observation():
    layout = Layout.of(make_facts(sizes={"front": (480, 640), "wrist": (720, 1280)}), "native")
    largest = 12 * (960 * 1280 + 1440 * 2560)
    assert largest < layout.message_bytes < largest + 2**21
