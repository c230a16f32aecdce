"""Every verb that writes says in one sentence that the disk is full, whatever library was writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rdvla import cli
from rdvla.config import save_config
from tests.support import toy_simulator  # noqa: F401  registers it
from tests.support.results_sample import make_results
from tests.support.tiny_training import tiny_policy, train_config, write_dataset

resource = pytest.importorskip("resource", reason="the system has no limits for files")

ROOM = 4500  # bytes that a file may have: enough for the trial before any work, too few for a result

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


@contextmanager
def full_disk() -> Iterator[None]:
    """Let this process write files of `ROOM` bytes at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
