"""The command line: what it lists, how it fails, what it hands on."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import rdvla
from rdvla import cli
from rdvla.cli import bench, report
from rdvla.cli.train import in_full
from rdvla.errors import ConfigError, RDVLAError
from tests.test_extras import run_with_the_core_only


def fake_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run() -> None:
        raise error

    module = types.ModuleType("rdvla.cli.fake")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rdvla.cli.fake", module)
    monkeypatch.setattr(cli, "verbs", lambda: {"fake": "Fail."})


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb_with_its_summary(argv, capsys):
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    for verb in cli.verbs():
        assert any(words and words[0] == verb and len(words) > 3 for words in lines), verb


def test_every_verb_module_is_listed():
    folder = Path(cli.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules - {"failures", "options"} == set(cli.verbs())


def test_the_order_of_the_overview_names_verbs_only():
    assert set(cli.ORDER) <= set(cli.verbs())


def test_a_new_verb_is_one_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "greet.py").write_text(
        "def run(name: str, *, times: int = 1) -> None:\n"
        '    """Say hello.\n\n    Args:\n        name: whom to greet.\n    """\n'
        "    print('hello ' * times + name)\n"
    )
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(cli, "__path__", [str(tmp_path)])
    assert cli.main(["--help"]) == 0
    assert "  greet     Say hello.\n" in capsys.readouterr().out
    assert cli.main(["greet", "you", "--times", "2"]) == 0
    assert capsys.readouterr().out == "hello hello you\n"
    with pytest.raises(SystemExit):
        cli.main(["greet", "--help"])
    assert "whom to greet" in capsys.readouterr().out
    sys.modules.pop("rdvla.cli.greet")


@pytest.mark.parametrize("argv", [["data"], ["data", "--help"]])
def test_a_folder_is_a_verb_whose_help_lists_its_verbs(argv, capsys):
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: rdvla data VERB")
    for verb, summary in cli.verbs("data").items():
        assert verb in shown
        assert summary in shown


def test_a_verb_of_a_folder_has_its_own_help_and_errors(capsys):
    with pytest.raises(SystemExit):
        cli.main(["data", "convert", "--help"])
    assert "usage: rdvla data convert" in capsys.readouterr().out
    assert cli.main(["data", "convrt"]) == 2
    assert "unknown verb 'data convrt'. Did you mean 'convert'?" in capsys.readouterr().err


def test_what_a_verb_returns_is_the_exit_code(monkeypatch):
    module = types.ModuleType("rdvla.cli.fake")
    module.run = lambda: 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rdvla.cli.fake", module)
    monkeypatch.setattr(cli, "verbs", lambda: {"fake": "Find something."})
    assert cli.main(["fake"]) == 1


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert rdvla.__version__ in capsys.readouterr().out


def test_version_is_the_one_in_pyproject():
    import tomllib

    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text())["project"]["version"] == rdvla.__version__


def test_overview_imports_nothing_heavy():
    code = (
        "import sys; from rdvla.cli import main; main(['--help']);"
        "print(sorted({'torch', 'numpy', 'transformers', 'av', 'matplotlib', 'draccus'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_the_help_of_a_verb_needs_neither_torch_nor_an_extra():
    printed = run_with_the_core_only(
        """
import contextlib, io, subprocess, types
from rdvla.cli import main, verbs
sys.modules["torch"] = None
subprocess.run = lambda *words, **settings: types.SimpleNamespace(returncode=0)  # bench asks another process
for verb in verbs():
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        main([verb, "--help"])
    assert verb == "bench" or f"usage: rdvla {verb}" in shown.getvalue(), verb
print("all")
"""
    )
    assert printed == "all\n"


def test_unknown_verb_names_the_nearest(capsys):
    assert cli.main(["tarin"]) == 2
    assert "unknown verb 'tarin'. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ConfigError("steps must be positive"), RDVLAError("steps must be positive")]
)
def test_bad_input_is_one_clean_line(monkeypatch, capsys, error):
    monkeypatch.delenv("RDVLA_DEBUG", raising=False)
    fake_verb(monkeypatch, error)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "rdvla: error: steps must be positive\n"


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_debug_shows_the_traceback(monkeypatch, capsys, way):
    fake_verb(monkeypatch, ConfigError("wrong"))
    if way == "environment":
        monkeypatch.setenv("RDVLA_DEBUG", "1")
    assert cli.main(["fake", "--debug"] if way == "flag" else ["fake"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("rdvla: error: wrong\n")


def test_other_exceptions_are_bugs_and_stay_loud(monkeypatch):
    fake_verb(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_interrupt(monkeypatch, capsys):
    fake_verb(monkeypatch, KeyboardInterrupt())
    assert cli.main(["fake"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["demos", "train", "eval"])
def test_verbs_list_their_options(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"rdvla {verb}" in shown
    assert "--config FILE.yaml" in shown
    assert {"demos": "--episodes_per_task", "train": "--policy.head.hidden_dim", "eval": "--stops"}[
        verb
    ] in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["demos", "--taks=[reach]"], "unknown option 'taks'. Did you mean 'tasks'?"),
        (["train", "--policy.head.hiden_dim=3"], "Did you mean 'policy.head.hidden_dim'?"),
        (
            ["eval", "--policy=x", "--output=y", "--episodes=few"],
            "option 'episodes': expected int, got 'few'",
        ),
    ],
)
def test_verbs_name_wrong_options(argv, message, capsys):
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


def test_report_of_a_missing_file(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "results.json")]) == 2
    assert "results.json" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["folder", "file"])
def test_report_goes_next_to_the_results(tmp_path, monkeypatch, capsys, given):
    (tmp_path / "results.json").write_text("{}")
    written: list[Path] = []
    monkeypatch.setattr(
        "rdvla.evaluation.write_report", lambda _results, output: written.append(output) or output
    )
    report.run([tmp_path if given == "folder" else tmp_path / "results.json"])
    assert written == [tmp_path / "report.html"]
    assert capsys.readouterr().out == f"written: {tmp_path / 'report.html'}\nnext: open it in a browser\n"


def test_bench_needs_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.rdvla, "__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    with pytest.raises(RDVLAError, match="source checkout"):
        bench.run()


def test_public_names_resolve():
    for name in rdvla.__all__:
        assert getattr(rdvla, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        rdvla.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--steps=3"], ["--steps=3"]),
        (["--backbone.latents", "8"], ["--policy.backbone.latents", "8"]),
        (
            ["--backbone.name_or_path=some/model"],
            ["--policy.backbone.name_or_path=some/model", "--policy.backbone.type=huggingface"],
        ),
        (
            ["--config", "a.yaml", "--backbone.name_or_path", "x"],
            ["--config", "a.yaml", "--policy.backbone.name_or_path", "x"],
        ),
    ],
)
def test_short_options_of_the_backbone(given, meant):
    assert in_full(given) == meant
