"""The real BridgeData V2 sample, its values read a second time by means of protobuf's own parser."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdvla.data import EpisodeDataset
from rdvla.data.convert.choose import Choices
from rdvla.data.convert.conversion import convert
from rdvla.data.convert.sources import open_source
from tests.support.foreign_datasets import example_class
from tests.support.shared_data import shared_data

pytest.importorskip("google.protobuf")
pytest.importorskip("google_crc32c")


def parsed_by_protobuf(path: Path) -> list:
    raw, at, messages = path.read_bytes(), 0, []
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        messages.append(example_class().FromString(raw[at + 12 : at + 12 + length]))
        at += length + 16
    return messages


def test_the_real_sample_keeps_every_value(tmp_path: Path) -> None:
    root = shared_data("bridge_rlds")
    done = convert(open_source(root), tmp_path / "bridge", choices=Choices(fps=5))
    assert (done.episodes, done.frames, len(done.tasks)) == (25, 250, 4)
    dataset = EpisodeDataset(tmp_path / "bridge", chunk_size=1)
    assert dataset.cameras == ["image_0", "image_1", "image_2"]  # image_3 is black throughout
    messages = parsed_by_protobuf(next(root.rglob("*.tfrecord*")))
    held = [message.features.feature for message in messages]
    for feature, key in (("action", "steps/action"), ("observation.state", "steps/observation/state")):
        values = np.concatenate([np.array(m[key].floatlist.value, np.float32).reshape(-1, 7) for m in held])
        np.testing.assert_array_equal(dataset.column(feature), values)
    for number in (0, 13, 24):
        frames = dataset.episode_frames(number)
        stored = held[number]
        text = stored["steps/language_instruction"].byteslist.value[0].decode()
        assert dataset.instructions([frames[0]]) == [text]
        images = dataset.images([frames[3]])
        for camera, image in images.items():
            picture = stored[f"steps/observation/{camera}"].byteslist.value[3]
            expected = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
            assert np.abs(image[0].numpy() - expected).mean() < 3
