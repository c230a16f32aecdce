"""Every verb finds out that it cannot write its output before it does any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdvla import cli

FILE, FOLDER = "a folder is there", "a file is there"
VERBS = [
    (["demos", "--output={}"], FOLDER),
    (["eval", "--policy=nothing", "--output={}"], FOLDER),
    (["demo", "--output={}"], FOLDER),
    (["convert", "nothing", "{}"], FOLDER),
    (["convert", "nothing", "{}", "--back", "nothing"], FOLDER),
    (["export", "nothing", "{}"], FOLDER),
    (["export", "nothing", "{}", "--format", "aoti", "--part", "head"], FOLDER),
    (["calibrate", "nothing", "nothing", "--output", "{}"], FILE),
    (["openloop", "nothing", "nothing", "--output", "{}"], FOLDER),
    (["report", "nothing", "--output", "{}"], FILE),
    (["data", "merge", "nothing", "nothing", "{}"], FOLDER),
    (["data", "inspect", "nothing", "--output", "{}"], FILE),
    (["profile", "nothing", "--output", "{}"], FILE),
]


@pytest.mark.parametrize(("argv", "kind"), VERBS, ids=[" ".join(argv) for argv, _ in VERBS])
@pytest.mark.parametrize("place", ["taken", "below a file", "too long"])
def test_an_output_that_cannot_be_written_is_refused_first(argv, kind, place, tmp_path: Path, capsys):
    """The policy, dataset or results that the verb would read do not exist, which it never comes to."""
    output = tmp_path / "output"
    if place == "below a file":
        output.write_text("")
        output = output / "below"
    elif place == "too long":
        output = tmp_path / ("x" * 300)
    elif kind == FILE:
        output.mkdir()
    else:
        output.write_text("")
    assert cli.main([word.format(output) for word in argv]) == 2
    shown = capsys.readouterr().err
    expected = {
        "taken": "is a folder: name a file" if kind == FILE else "a file is where this path needs a folder",
        "below a file": "a file is where this path needs a folder",
        "too long": "the name is too long",
    }[place]
    assert expected in shown and shown.count("\n") == 1
    assert "output: " in shown.lower()
