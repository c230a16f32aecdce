"""Small datasets in foreign formats, written without rdvla's readers: TFRecord by protobuf, HDF5 by h5py.

The checksum of TFRecord is computed bit by bit here, from the polynomial.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LENGTHS = (4, 6, 3)
SIZE = (24, 32)
TASKS = ("lift the cube", "öffne die Tür", "lift the cube")


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Return a record as TFRecord stores it."""

    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


@cache
def example_class() -> Any:
    """Return a message class with the fields of `tf.train.Example`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example_for_tests.proto", package="t", syntax="proto3")
    kinds = {"BytesList": 12, "FloatList": 2, "Int64List": 3}
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
    feature = file.message_type.add(name="Feature")
    for number, name in enumerate(kinds, start=1):
        field = {"name": name.lower(), "number": number, "label": 1, "type": 11, "type_name": f".t.{name}"}
        feature.field.add(**field)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".t.Feature")
    features.field.add(name="feature", number=1, label=3, type=11, type_name=".t.Features.FeatureEntry")
    file.message_type.add(name="Example").field.add(
        name="features", number=1, label=1, type=11, type_name=".t.Features"
    )
    pool = descriptor_pool.Default()  # messages do not keep another pool alive
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def example(values: Mapping[str, Any]) -> bytes:
    """Return a serialised message: float arrays, integer arrays, or lists of bytes by name."""
    message = example_class()()
    for name, value in values.items():
        feature = message.features.feature[name]
        if isinstance(value, list):
            feature.byteslist.value.extend(value)
        elif np.asarray(value).dtype.kind == "f":
            feature.floatlist.value.extend(np.asarray(value).reshape(-1).tolist())
        else:
            feature.int64list.value.extend(int(v) for v in np.asarray(value).reshape(-1))
    return bytes(message.SerializeToString())


def tensor(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encoding": "none"}}


def dictionary(features: dict[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": features}}


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def content(number: int) -> dict[str, np.ndarray]:
    """The numbers and images of one episode."""
    rng = np.random.default_rng(number)
    steps = LENGTHS[number]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    images = [
        np.stack([3 * x + 20 * step, 6 * y, 0 * x + 40 * number], axis=-1).clip(0, 255)
        for step in range(steps)
    ]
    return {
        "position": rng.normal(size=(steps, 3)).astype(np.float32),
        "gripper": rng.normal(size=(steps,)).astype(np.float32),
        "state": rng.normal(size=(steps, 5)).astype(np.float32),
        "counter": rng.integers(-(2**40), 2**40, (steps, 2)),
        "image": np.stack(images).astype(np.uint8),
    }


def write_rlds(root: Path, *, action: str = "split") -> Path:
    """Write two TFRecord files, features.json and dataset_info.json into `root`/toy/1.0.0."""
    folder = root / "toy" / "1.0.0"
    folder.mkdir(parents=True)
    image = {
        "image": {"shape": {"dimensions": ["24", "32", "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"}
    }
    parts = {"position": tensor([3], "float32"), "gripper": tensor([], "float32")}
    steps = {
        "action": dictionary(parts) if action == "split" else tensor([3], "float32"),
        "observation": dictionary(
            {
                "state": tensor([5], "float32"),
                "counter": tensor([2], "int64"),
                "image": image,
                "dark": image,
                "depth": {"image": {**image["image"], "shape": {"dimensions": ["24", "32", "1"]}}},
            }
        ),
        "is_last": tensor([], "bool"),
        "language_instruction": {"text": {}},
    }
    features = {"steps": {"sequence": {"feature": dictionary(steps), "length": "-1"}}}
    features["episode_metadata"] = dictionary({"file_path": {"text": {}}})
    (folder / "features.json").write_text(json.dumps(dictionary(features)))
    lengths = [{"name": "train", "shardLengths": ["2", "1"]}]
    (folder / "dataset_info.json").write_text(json.dumps({"splits": lengths}))
    for shard, numbers in enumerate(((0, 1), (2,))):
        records = [frame(example(_rlds_values(number, action))) for number in numbers]
        (folder / f"toy-train.tfrecord-0000{shard}-of-00002").write_bytes(b"".join(records))
    return folder


def _rlds_values(number: int, action: str) -> dict[str, Any]:
    held = content(number)
    steps = LENGTHS[number]
    dark = jpeg(np.zeros((*SIZE, 3), np.uint8))
    values = {
        "steps/observation/state": held["state"],
        "steps/observation/counter": held["counter"],
        "steps/observation/image": [jpeg(image) for image in held["image"]],
        "steps/observation/dark": [dark] * steps,
        "steps/observation/depth": [dark] * steps,
        "steps/is_last": np.arange(steps) == steps - 1,
        "steps/language_instruction": [TASKS[number].encode()] * steps,
        "episode_metadata/file_path": [b"somewhere"],
    }
    if action == "split":
        return values | {"steps/action/position": held["position"], "steps/action/gripper": held["gripper"]}
    return values | {"steps/action": held["position"]}


def write_hdf5(path: Path, *, kind: str) -> Path:
    """Write a file in the layout of "libero" or "robomimic", with eleven demonstrations' worth of names."""
    import h5py

    arguments = {"env_name": "Lift", "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(arguments)
        if kind == "libero":
            data.attrs["problem_info"] = json.dumps({"language_instruction": list('"lift the cube"')})
        # Not in the order of their numbers: HDF5 sorts names as texts, so demo_10 precedes demo_2.
        for number, name in enumerate(("demo_0", "demo_2", "demo_10")):
            held = content(number)
            demo = data.create_group(name)
            demo["actions"] = np.concatenate([held["position"], held["gripper"][:, None]], 1).astype("f8")
            demo["states"] = held["counter"]
            demo["dones"] = np.zeros(LENGTHS[number])
            observed = demo.create_group("obs")
            if kind == "libero":
                observed["agentview_rgb"] = held["image"][:, ::-1]
                observed["ee_states"], observed["gripper_states"] = held["state"][:, :3], held["state"][:, 3:]
            else:
                observed["agentview_image"] = held["image"]
                observed["robot0_eef_pos"] = held["state"][:, :3]
                observed["robot0_eef_quat"] = held["state"][:, 3:4]
                observed["robot0_gripper_qpos"] = held["state"][:, 4:]
                observed["agentview_depth"] = held["image"][..., :1]
            demo.create_group("next_obs")["agentview"] = held["state"]
        if kind == "robomimic":
            file["mask/valid"] = np.array([b"demo_10", b"demo_2"])
    return path
