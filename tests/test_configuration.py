"""Configurations: what is read, what is written, and what is said when something is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import draccus
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rdvla.config import decode_config, encode_config, load_config, save_config
from rdvla.config.help import option_help
from rdvla.errors import ConfigError

Level = int | str


@dataclass(frozen=True)
class Head:
    """Sizes of the head."""

    hidden_dim: int = 64  # D, width of a token
    prelude: tuple[Level, ...] = ("middle",)
    core: tuple[Level, ...] = ("late", 3)
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.hidden_dim % 2:
            raise ValueError(f"hidden_dim must be even, got {self.hidden_dim}")


@dataclass(frozen=True)
class Training:
    steps: int = 100
    learning_rate: float = 2e-4
    ema: bool = True


@dataclass(frozen=True)
class Run:
    """A run."""

    output: Path = Path("runs/x")  # folder that is written
    root: Path | None = None
    name: str | None = None
    form: Literal["standard", "neighbour_pairs"] = "standard"
    rules: list[str] = field(default_factory=lambda: ["1", "8"])
    size: tuple[int, int] = (128, 128)
    weights: dict[str, float] = field(default_factory=dict)
    head: Head = field(default_factory=Head)
    teacher: Head | None = None
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class Documented:
    """Options that are described in different ways.

    Attributes:
        described, also: in the docstring,
            on two lines.
        behind: hidden by the comment.

    Raises:
        nothing: not an option.
    """

    described: int = 1
    also: int = 2
    behind: int = 3  # by 100% comments
    choice: Literal["a", "b"] = "a"  # one of two
    wrapped: bool = (
        False  # on its own line
    )  # fmt: skip
    bare: int = 4
    head: Head = field(default_factory=Head)


@dataclass(frozen=True)
class Required:
    root: Path
    steps: int = 1


def write(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text)
    return str(path)


def test_defaults():
    assert load_config(Run, []) == Run()


def test_file_then_overrides(tmp_path: Path):
    path = write(tmp_path, "name: a\nhead: {hidden_dim: 32, core: [late, 7]}\ntraining:\n  steps: 5\n")
    config = load_config(Run, ["--config", path, "--head.hidden_dim=16", "--training.learning_rate", "1e-3"])
    assert config.head == Head(hidden_dim=16, core=("late", 7))
    assert config.training == Training(steps=5, learning_rate=1e-3)
    assert load_config(Run, ["--config_path", path]).name == "a"


@pytest.mark.parametrize(
    ("argv", "check"),
    [
        (["--head.hidden_dim", "8"], lambda c: c.head.hidden_dim == 8),
        (["--head.prelude=[middle, 12, late]"], lambda c: c.head.prelude == ("middle", 12, "late")),
        (["--head.prelude", "[]"], lambda c: c.head.prelude == ()),
        (
            ["--rules", "['1', 'fixed:8', 'binary:8,4,6']"],
            lambda c: c.rules == ["1", "fixed:8", "binary:8,4,6"],
        ),
        (["--rules=[1, 2]"], lambda c: c.rules == ["1", "2"]),
        (["--head.scale=0.5"], lambda c: c.head.scale == 0.5),
        (["--head.scale=null"], lambda c: c.head.scale is None),
        (["--training.ema=false"], lambda c: c.training.ema is False),
        (["--root=data/x"], lambda c: c.root == Path("data/x")),
        (["--name=123"], lambda c: c.name == "123"),
        (["--weights={a: 1, b: 2.5}"], lambda c: c.weights == {"a": 1.0, "b": 2.5}),
        (["--teacher.hidden_dim=4"], lambda c: c.teacher == Head(hidden_dim=4)),
        (["--form=neighbour_pairs"], lambda c: c.form == "neighbour_pairs"),
        (["--training.learning_rate=-1e-4"], lambda c: c.training.learning_rate == -1e-4),
    ],
)
def test_overrides(argv, check):
    assert check(load_config(Run, argv))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--trainng.steps=5"], "unknown option 'trainng.steps'. Did you mean 'training.steps'?"),
        (["--head.hiden_dim", "5"], "unknown option 'head.hiden_dim'. Did you mean 'head.hidden_dim'?"),
        (["--hidden_dim", "5"], "unknown option 'hidden_dim'. Did you mean 'head.hidden_dim'?"),
        (["surplus"], "unexpected argument 'surplus'"),
        (["--training.steps=many"], "option 'training.steps': expected int, got 'many'"),
        (["--training.steps=1.5"], "option 'training.steps': expected int, got 1.5"),
        (["--training.steps=null"], "option 'training.steps': expected int, got None"),
        (["--training.steps=true"], "option 'training.steps': expected int, got True"),
        (["--training.steps=[1]"], "option 'training.steps': expected int, got [1]"),
        (["--training.ema=maybe"], "option 'training.ema': expected bool, got 'maybe'"),
        (["--head.scale=big"], "option 'head.scale': expected float or null, got 'big'"),
        (["--head.prelude=middle"], "option 'head.prelude': expected a list of int or str, got 'middle'"),
        (["--size=[1, 2, 3]"], "option 'size': expected a list [int, int], got [1, 2, 3]"),
        (["--size=[1, x]"], "option 'size.1': expected int, got 'x'"),
        (["--weights={a: b}"], "option 'weights.a': expected float, got 'b'"),
        (["--head=3"], "option 'head': expected the options of Head, got 3"),
        (["--form=other"], "form"),
        (["--training.steps"], "option 'training.steps': expected one argument"),
        (["--head.hidden_dim=3"], "hidden_dim must be even, got 3"),
        (["--teacher.hidden_dim=3"], "hidden_dim must be even, got 3"),
        (["--config", "missing.yaml"], "the configuration file missing.yaml does not exist"),
        (["--rules=[1"], "not valid YAML"),
        (["--head=1", "--head.hidden_dim=2"], "head"),
    ],
)
def test_errors_on_the_command_line(argv, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(Run, argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainng: {steps: 5}", "unknown option 'trainng.steps'. Did you mean 'training.steps'?"),
        ("head: {hiden_dim: 5}", "unknown option 'head.hiden_dim'. Did you mean 'head.hidden_dim'?"),
        ("teacher: {hiden_dim: 5}", "unknown option 'teacher.hiden_dim'"),
        ("5: 6", "unknown option '5'"),
        ("training: 5", "option 'training': expected the options of Training, got 5"),
        ("training: {steps: yes}", "option 'training.steps': expected int, got True"),
        ("size: [1]", "option 'size': expected a list [int, int], got [1]"),
        ("- a", "must hold options"),
        ("a: [", "cannot be read"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
    ],
)
def test_errors_in_a_file_name_the_file(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_config(Run, ["--config", path])
    if "size" not in text:  # the number of items is found when file and overrides are merged
        assert path in str(error.value)


def test_missing_required_option():
    with pytest.raises(ConfigError, match="root"):
        load_config(Required, [])
    assert load_config(Required, ["--root=x"]) == Required(root=Path("x"))


def test_help_lists_options_with_comments(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        load_config(Run, ["--help"], prog="rdvla run")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "rdvla run" in shown
    assert "--head.hidden_dim" in shown
    assert "D, width of a token" in shown
    assert "folder that is written" in shown
    assert "Config file for" not in shown


def test_help_texts():
    texts = option_help(Documented)
    assert texts == {
        "described": "in the docstring, on two lines.",
        "also": "in the docstring, on two lines.",
        "behind": "by 100% comments",
        "choice": "one of two",
        "wrapped": "on its own line fmt: skip",
        "head.hidden_dim": "D, width of a token",
    }


def test_help_prints_every_text(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load_config(Documented, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for text in option_help(Documented).values():
        assert text in shown
    assert "not an option" not in shown


@dataclass(frozen=True)
class Shape(draccus.ChoiceRegistry):
    @classmethod
    def default_choice_name(cls) -> str:
        return "round"


@Shape.register_subclass("round")
@dataclass(frozen=True)
class Round(Shape):
    radius: float = field(default=1.0, metadata={"was": "r"})


@Shape.register_subclass("square")
@dataclass(frozen=True)
class Square(Shape):
    side: float = 2.0


@dataclass(frozen=True)
class Frame:
    shape: Square = field(default_factory=Square)


@dataclass(frozen=True)
class Drawing:
    stop: str = field(default="8", metadata={"was": "depth"})  # rule that ends the iteration
    shape: Shape = field(default_factory=Round)
    others: tuple[Round, ...] = ()
    head: Head | None = None


OLD = {"depth": "4", "shape": {"r": 3.0}, "others": [{"r": 5.0}, {"radius": 6.0}]}
NEW = Drawing(stop="4", shape=Round(radius=3.0), others=(Round(radius=5.0), Round(radius=6.0)))


def test_saved_files_may_have_old_names_of_options(tmp_path: Path):
    assert decode_config(Drawing, OLD) == NEW
    assert decode_config(Drawing, encode_config(NEW)) == NEW
    path = write(tmp_path, yaml.safe_dump(OLD))
    assert load_config(Drawing, ["--config", path]) == NEW
    assert load_config(Drawing, ["--config", path, "--stop=12"]).stop == "12"
    assert OLD["shape"] == {"r": 3.0}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--depth=4"], "unknown option 'depth': it is called 'stop' now"),
        (["--shape.r", "4"], "unknown option 'shape.r': it is called 'shape.radius' now"),
    ],
)
def test_old_names_on_the_command_line_are_told_the_new_one(argv, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(Drawing, argv)


def test_an_option_under_both_names_is_refused():
    message = "here: option 'shape.radius' is also given under its old name 'shape.r'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        decode_config(Drawing, {"shape": {"r": 1.0, "radius": 2.0}}, source="here")


def test_a_wrong_value_under_an_old_name_is_named():
    with pytest.raises(ConfigError, match=re.escape("option 'shape.radius': expected float, got 'far'")):
        decode_config(Drawing, {"shape": {"r": "far"}})


def test_a_choice_without_a_type_is_the_default_one():
    assert decode_config(Drawing, {"shape": {"radius": 3.0}}).shape == Round(radius=3.0)
    assert decode_config(Drawing, {"shape": {}}).shape == Round()
    assert decode_config(Drawing, {"shape": {"type": "square", "side": 3.0}}).shape == Square(side=3.0)
    with pytest.raises(ConfigError, match=re.escape("unknown option 'shape.side'")):
        decode_config(Drawing, {"shape": {"side": 3.0}})


def test_an_option_that_takes_one_choice_only_needs_no_type():
    assert decode_config(Frame, {"shape": {"side": 3.0}}) == Frame(Square(side=3.0))
    with pytest.raises(ConfigError, match=re.escape("unknown option 'shape.radius'")):
        decode_config(Frame, {"shape": {"radius": 3.0}})


def test_a_choice_without_a_default_needs_a_type():
    with pytest.raises(ConfigError, match=re.escape("option 'solid.type' is missing: one of cube")):
        decode_config(Body, {"solid": {"edge": 3.0}})


@dataclass(frozen=True)
class Solid(draccus.ChoiceRegistry):
    pass


@Solid.register_subclass("cube")
@dataclass(frozen=True)
class Cube(Solid):
    edge: float = 1.0


@dataclass(frozen=True)
class Body:
    solid: Solid = field(default_factory=Cube)


levels = st.lists(st.integers(-40, 40) | st.sampled_from(["middle", "late"]), max_size=4).map(tuple)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8)
heads = st.builds(
    Head,
    hidden_dim=st.integers(1, 500).map(lambda n: 2 * n),
    prelude=levels,
    core=levels,
    scale=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
runs = st.builds(
    Run,
    output=st.sampled_from([Path("a"), Path("/b/c d")]),
    root=st.none() | st.just(Path("r")),
    name=st.none() | texts,
    form=st.sampled_from(["standard", "neighbour_pairs"]),
    rules=st.lists(texts, max_size=3),
    size=st.tuples(st.integers(), st.integers()),
    weights=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    head=heads,
    teacher=st.none() | heads,
    training=st.builds(
        Training,
        steps=st.integers(),
        learning_rate=st.floats(allow_nan=False, allow_infinity=False),
        ema=st.booleans(),
    ),
)


@given(config=runs)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, config: Run):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    save_config(path, config)
    assert load_config(Run, ["--config", str(path)]) == config
    assert decode_config(Run, encode_config(config)) == config


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["head", "teacher", "training", "size", "rules", "weights", "form", "name", "nmae"])


@given(values=st.dictionaries(keys, plain, max_size=4))
def test_any_values_give_a_config_or_a_config_error(values):
    try:
        assert isinstance(decode_config(Run, values, source="here"), Run)
    except ConfigError as error:
        assert "here" in str(error)
