"""YAML files of strangers exhaust neither memory nor the reader, nor the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdvla.config import load_config, read_yaml
from rdvla.errors import ConfigError
from rdvla.training.config import TrainConfig

DOUBLINGS = "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 40))


def load(tmp_path: Path, content: str) -> TrainConfig:
    path = tmp_path / "file.yaml"
    path.write_text(content)
    return load_config(TrainConfig, ["--config", str(path)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("l0: &l0 [x]\n" + DOUBLINGS + "dataset: *l39\n", "aliases .* stand for more than 100,000 values"),
        ("policy: &p {head: *p}\n", "aliases"),
        ("steps: " + "[" * 1500, "nested too deeply"),
        ("steps: " + "1" * 6000, "cannot be read: Exceeds the limit"),
        ("steps: 2001-99-99", "cannot be read: month"),
        ("dataset: d\noutput_dir: o\nsteps: 0x" + "f" * 6000, "option 'steps'"),
        ("dataset: [" + "xxxx, " * 20_000 + "]", "option 'dataset'"),
        ("data: {cameras: [" + "x, " * 20_000 + "]}", "option 'data.cameras'"),
    ],
)
def test_one_short_sentence_names_the_file(tmp_path: Path, content: str, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "file.yaml") in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_bytes_that_are_no_text_are_named(tmp_path: Path):
    (tmp_path / "file.yaml").write_bytes(b"steps: \xff")
    with pytest.raises(ConfigError, match=r"file\.yaml cannot be read"):
        read_yaml(tmp_path / "file.yaml")


@pytest.mark.parametrize("value", ["1" * 6000, "[" * 1500])
def test_the_command_line_is_held_to_the_same(value: str):
    with pytest.raises(ConfigError, match="command line"):
        load_config(TrainConfig, [f"--steps={value}"])


def test_aliases_of_a_reasonable_file_work(tmp_path: Path):
    (tmp_path / "file.yaml").write_text("a: &one {x: 1}\nb: {<<: *one, y: 2}\n")
    assert read_yaml(tmp_path / "file.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
