"""Everything around compiled code: the head that it is for, the computer that it runs on, its inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdvla.cli import main
from rdvla.control import Stop
from rdvla.engine import Engine, gemv, load_compiled
from rdvla.engine.aoti.description import (
    FORMER_KERNEL,
    KERNEL,
    NAME,
    Description,
    configuration_of,
    this_processor,
)
from rdvla.engine.aoti.functions import make_functions, token_counts
from rdvla.engine.aoti.steps import PackagedSteps
from rdvla.errors import ConfigError, InputError, RDVLAError
from rdvla.export import export_compiled_head
from rdvla.export.comparison import compare_predictions
from rdvla.files import CHECKSUM
from rdvla.hashing import fingerprint
from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead
from rdvla.types import Prediction
from tests.support.closeness import assert_no_close_calls
from tests.support.heads import SMALL, make_context, make_head, take

STOPS = (
    Stop.fixed(1),
    Stop.fixed(7),
    Stop("action_change", threshold=1e-3),
    Stop("deferred_action_change", threshold=1e-3, coda_below=0.2),
    Stop("latent_change"),
)
MANY = 60  # vision tokens, enough for the coda's context to have either form


def make_case(config: RecurrentConfig = SMALL, *, vision: int = MANY) -> tuple[RecurrentDepthHead, Context]:
    head = make_head(config).eval().requires_grad_(False)
    return head, make_context(head, batch=3, vision=vision)


def uncompiled(head: RecurrentDepthHead, context: Context) -> Engine:
    functions = make_functions(head, context, dtype=torch.float32)
    steps = PackagedSteps(
        head,
        {name: function.call for name, function in functions.items()},
        tokens=token_counts(context, head.config.levels),
    )
    return Engine(head, steps)


def written(folder: Path, head: RecurrentDepthHead, context: Context) -> Description:
    """Write a whole export with other content in its files; return its description."""
    folder.mkdir()
    for name in make_functions(head, context, dtype=torch.float32):
        (folder / f"{name}.pt2").write_bytes(name.encode())
    (folder / KERNEL).write_bytes(b"kernel")
    description = Description(
        precision="fp32",
        weights=fingerprint(head),
        head=configuration_of(head.config),
        tokens=token_counts(context, head.config.levels),
        torch=torch.__version__,
        processor=this_processor(),
    )
    description.write(folder)
    return description


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.describe())
@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, prelude=(), coda=()), replace(SMALL, core=("late", 3), coda=("middle", "late"))],
    ids=["one of each", "core alone", "several"],
)
def test_the_functions_together_are_the_head(config: RecurrentConfig, stop: Stop) -> None:
    head, context = make_case(config)
    start = head.initial_state(3, torch.Generator().manual_seed(0)) * torch.tensor([0.2, 1, 6])[:, None, None]
    expected = Engine(head).predict(context, stop=stop, initial_state=start, trace=True)
    assert expected.trace is not None
    assert_no_close_calls(expected.trace, stop, tolerance=3e-5)
    engine = uncompiled(head, context)
    for found in (
        engine.predict(context, stop=stop, initial_state=start),
        engine.predict(context, stop=stop, initial_state=start, trace=True),
    ):
        assert found.depth.tolist() == expected.depth.tolist()
        torch.testing.assert_close(found.actions, expected.actions, atol=1e-5, rtol=1e-5)
    alone = engine.predict(take(context, 2), stop=stop, initial_state=start[2:])
    assert alone.depth.tolist() == expected.depth[2:].tolist()
    torch.testing.assert_close(alone.actions, expected.actions[2:], atol=1e-5, rtol=1e-5)


def test_the_coda_has_two_forms() -> None:
    head, context = make_case()
    names = make_functions(head, context, dtype=torch.float32).keys()
    assert names == {
        "encode", "iterate", "project_keys", "decode_keys", "project_context", "decode_context"
    }  # fmt: skip


def test_the_order_of_levels_and_further_ones_do_not_matter() -> None:
    head, context = make_case()
    start = head.initial_state(3, torch.Generator().manual_seed(0))
    expected = Engine(head).predict(context, stop=4, initial_state=start).actions
    engine = uncompiled(head, context)
    vision, latents = (
        {"unread": torch.zeros(3, 1, 1), **dict(reversed(kind.items()))}
        for kind in (context.vision, context.latents)
    )
    found = engine.predict(Context(vision, latents, context.proprio), stop=4, initial_state=start).actions
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["tokens", "width", "batch"])
def test_features_of_other_sizes_are_refused(change: str) -> None:
    head, context = make_case()
    engine = uncompiled(head, context)
    vision = context.vision["middle"]
    wrong = {"tokens": vision[:, :5], "width": vision[..., :8], "batch": vision[:1]}[change]
    other = Context({**context.vision, "middle": wrong}, context.latents, context.proprio)
    with pytest.raises(InputError, match=r"compiled for vision\.middle of shape \(3, 60, 16\), the context"):
        engine.predict(other, stop=1)


def test_a_difference_that_is_no_number_is_not_small() -> None:
    good, bad = (
        Prediction(
            torch.full((1, 2, 3), number), torch.ones(1), torch.ones(1, dtype=torch.bool), torch.ones(1, 2, 4)
        )
        for number in (0.0, torch.nan)
    )
    check = compare_predictions(Stop.fixed(1), [good, bad], [good, good])
    with pytest.raises(RDVLAError, match="does not act as the policy"):
        check.require()


def test_a_whole_export_is_loaded_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, context = make_case()
    written(tmp_path / "export", head, context)
    loaded: list[str] = []
    monkeypatch.setattr(torch._inductor, "aoti_load_package", loaded.append)
    monkeypatch.setattr(gemv, "register", lambda library: loaded.append(str(library)))
    engine = load_compiled(head, tmp_path / "export")
    assert loaded[0] == str(tmp_path / "export" / KERNEL)  # first: the others use it
    assert sorted(loaded) == sorted(
        str(path) for path in (tmp_path / "export").iterdir() if path.name != NAME
    )
    assert engine.is_compiled


def test_the_kernel_of_an_older_export_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, context = make_case()
    folder = tmp_path / "export"
    written(folder, head, context)
    (folder / KERNEL).rename(folder / FORMER_KERNEL)
    content = json.loads((folder / NAME).read_text())
    del content[CHECKSUM]  # which older exports do not have
    content["files"][FORMER_KERNEL] = content["files"].pop(KERNEL)
    (folder / NAME).write_text(json.dumps(content))
    registered: list[Path] = []
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: path)
    monkeypatch.setattr(gemv, "register", registered.append)
    assert load_compiled(head, folder).is_compiled
    assert registered == [folder / FORMER_KERNEL]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": "1.0"}, r"compiled with torch 1\.0, this is"),
        ({"processor": ("Linux", "sve9")}, "with .*sve9, which this one lacks"),
        ({"weights": "0"}, "other weights"),
        ({"head": {}}, "another configuration"),
        ({"tokens": {}}, r"does not fit: tokens of \['latents"),
        ({"tokens": {"vision.late": "many"}}, "'tokens' must hold numbers"),
        ({"processor": ("Linux", ["sve9"])}, "'processor' must hold names"),
        ({"tokens": 3}, "'tokens' has the wrong type"),
    ],
)
def test_code_for_something_else_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    head, context = make_case()
    replace(written(tmp_path / "export", head, context), **change).write(tmp_path / "export")
    _refused(monkeypatch, head, tmp_path / "export", message)


@pytest.mark.parametrize(
    "damage", ["changed", "missing", "unlisted", "no kernel", "no description", "format", "schema", "entry"]
)
def test_damaged_exports_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    head, context = make_case()
    folder = tmp_path / "export"
    written(folder, head, context)
    content = json.loads((folder / NAME).read_text())
    del content[CHECKSUM]  # which would notice all that is changed here
    if damage == "changed":
        (folder / "iterate.pt2").write_bytes(b"other")
    elif damage in ("missing", "unlisted"):
        (folder / "iterate.pt2").unlink()
    if damage == "unlisted":
        del content["files"]["iterate.pt2"]
    elif damage == "no kernel":
        del content["files"][KERNEL]
    elif damage in ("format", "schema"):
        content[damage] = "x"
    elif damage == "entry":
        del content["torch"]
    (folder / NAME).write_text(json.dumps(content))
    if damage == "no description":
        (folder / NAME).unlink()
    message = {
        "changed": r"iterate\.pt2 is damaged or was changed",
        "missing": r"iterate\.pt2 is missing",
        "unlisted": r"lacks iterate\.pt2",
        "no kernel": r"lacks gemv\.so",
        "no description": r"holds no compiled\.json",
        "format": "is not of a head made by",
        "schema": "has schema x, this version",
        "entry": "'torch' is missing or unknown",
    }[damage]
    _refused(monkeypatch, head, folder, message)


def test_a_head_in_another_type_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, context = make_case()
    written(tmp_path / "export", head, context)
    _refused(monkeypatch, head.to(torch.float64), tmp_path / "export", "not on cpu in torch.float64")


def test_what_cannot_be_written_is_known_before_compiling(tmp_path: Path) -> None:
    head, context = make_case()
    with pytest.raises(ConfigError, match="precision must be one of fp32, bf16"):
        export_compiled_head(head, tmp_path / "a", example=context, stop=Stop.fixed(1), precision="int8")  # type: ignore[arg-type]
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RDVLAError, match="exists and is no export of this kind"):
        export_compiled_head(head, tmp_path, example=context, stop=Stop.fixed(1))
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "aoti"], "add --part head"),
        (["--format", "aoti", "--part", "head", "--precision", "int8"], "fp32 and bf16, not int8"),
        (["--part", "head", "--precision", "bf16"], "fp32 and int8, not bf16"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "policy", "output", *options]) == 2
    assert message in capsys.readouterr().err


def _refused(monkeypatch: pytest.MonkeyPatch, head: RecurrentDepthHead, folder: Path, message: str) -> None:
    def never(path: str) -> None:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(torch._inductor, "aoti_load_package", never)
    monkeypatch.setattr(gemv, "register", never)
    with pytest.raises(RDVLAError, match=message):
        load_compiled(head, folder)
