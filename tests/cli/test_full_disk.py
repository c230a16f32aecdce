"""Every verb that writes says in one sentence that the disk is full, whatever library was writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdvla import cli
from rdvla.config import save_config
from tests.support import toy_simulator  # noqa: F401  registers it
from tests.support.full_disk import full_disk
from tests.support.results_sample import make_results
from tests.support.tiny_training import tiny_policy, train_config, write_dataset

VERBS = [
    "train --config={inputs}/train.yaml --output_dir={out}",
    "demos --env=toy --episodes_per_task=1 --image_size=64 --workers=1 --output={out}",
    "convert {inputs}/policy {out} --to lerobot",
    "openloop {inputs}/policy {inputs}/data --samples 4 --stops 2 --output {out}",
    "report {inputs}/results --output {out}.html",
    "profile {inputs}/results --output {out}.png",
    "data merge {inputs}/data {inputs}/data {out}",
    "data inspect {inputs}/data --output {out}.html",
    pytest.param("export {inputs}/policy {out} --part head", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    data = write_dataset(folder / "data")
    tiny_policy().save_pretrained(folder / "policy")
    save_config(folder / "train.yaml", train_config(data, folder / "never"))
    make_results(folder / "results")
    return folder


@pytest.mark.parametrize("words", VERBS)
def test_a_full_disk_is_one_sentence(inputs: Path, tmp_path: Path, capsys, words: str) -> None:
    output = tmp_path / "output"
    argv = [word.format(inputs=inputs, out=output) for word in words.split()]
    with full_disk():
        code = cli.main(argv)
    shown = capsys.readouterr().err
    assert code == 2, shown
    (said,) = [line for line in shown.splitlines() if "error" in line]
    assert said.startswith("rdvla: error: ") and "Traceback" not in shown
    assert "the file would be larger than this system allows" in said or "File too large" in said
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


def test_a_calibration_on_a_full_disk_leaves_the_older_one(inputs: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "rules.json"
    output.write_text("older")
    words = [str(inputs / "policy"), str(inputs / "data"), "--samples", "4", "--max-depth", "4"]
    with full_disk(room=4000):  # the rules are a small file
        assert cli.main(["calibrate", *words, "--output", str(output)]) == 2
    shown = capsys.readouterr().err
    assert "error: --output: " in shown and "rules.json: the file would be larger than" in shown
    assert "Traceback" not in shown
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rules.json", "older")]
