"""`rdvla demo`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rdvla.cli.options import AtLeastOne
from rdvla.errors import install_command
from rdvla.files import check_writable

if TYPE_CHECKING:
    from rich.console import Console

    from rdvla import Observation, RDVLAPolicy

POLICY = "metaworld"
DEPTH = 32  # iterations that the table goes on to
SHOWN = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, DEPTH)
# What the closed loop needs: package -> the extra that brings it.
NEEDED = {"metaworld": "metaworld", "av": "metaworld", "jinja2": "report", "matplotlib": "report"}


def run(
    *,
    output: Path = Path("runs/demo"),
    tasks: tuple[str, ...] = (),
    episodes: AtLeastOne = 5,
    no_simulator: bool = False,
) -> None:
    """Show the policy that ships: how its actions settle, then closed-loop episodes in MetaWorld.

    The first part needs no more than rdvla itself. The second plays episodes at several depths and with the
    adaptive rule, and writes results and a report; it needs the extras metaworld and report.

    Args:
        output: folder of the closed loop's results, episodes, videos and report.
        tasks: tasks to play (default: the ten of MT10).
        episodes: episodes of each task and depth.
        no_simulator: leave the closed loop out.
    """
    if not no_simulator:
        check_writable(output, option="--output", folder=True)
    from rich.console import Console

    from rdvla import RDVLAPolicy

    console = Console(highlight=False, markup=False)
    _show_depth(RDVLAPolicy.from_pretrained(POLICY), console)
    if no_simulator:
        return
    missing = {package: extra for package, extra in NEEDED.items() if find_spec(package) is None}
    if missing:
        extras = ",".join(sorted(set(missing.values())))
        needed = ", ".join(missing)
        console.print(f"The closed loop needs {needed}: {install_command(extras)}", soft_wrap=True)
        return
    _play(output, tasks=tasks, episodes=episodes)


def _show_depth(policy: RDVLAPolicy, console: Console) -> None:
    """Print how far each iteration still moves the actions, and when the policy's own rule stops."""
    import torch
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    observation = shipped_observations()
    seeded = torch.Generator().manual_seed
    adaptive = policy.predict(observation, generator=seeded(0))
    deep = policy.predict(observation, stop=DEPTH, generator=seeded(0), trace=True)
    assert deep.trace is not None
    depths = adaptive.depth.tolist()
    table = Table(box=SIMPLE_HEAD, caption_justify="left", title_justify="left")
    table.title = "Mean squared change of the actions per iteration (* the policy's rule stops)"
    table.add_column("iteration", justify="right")
    for sentence in observation.instruction:
        table.add_column(sentence, justify="right")
    for iteration in sorted({*SHOWN, *depths}):
        changes = deep.trace.action_change[iteration - 1].tolist()
        cells = [
            f"{change:.1e}{'*' if iteration == depth else ' '}"
            for change, depth in zip(changes, depths, strict=True)
        ]
        table.add_row(str(iteration), *cells)
    console.print(table)
    console.print(f"Rule {policy.config.stop}: stops after {', '.join(map(str, depths))} iterations.")
    apart = (adaptive.actions - deep.actions).abs().amax(dim=(1, 2)).tolist()
    shown = ", ".join(f"{difference:.3f}" for difference in apart)
    console.print(f"Furthest from the actions at depth {DEPTH}: {shown} (actions lie in [-1, 1]).\n")


def shipped_observations() -> Observation:
    """Return the observations that ship: of three MetaWorld tasks, easy and hard."""
    import json

    from safetensors import safe_open

    from rdvla import Observation
    from rdvla.assets import OBSERVATIONS

    with safe_open(OBSERVATIONS, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        instructions = json.loads(file.metadata()["instructions"])
    state = tensors.pop("state")
    images = {name.removeprefix("images."): image for name, image in tensors.items()}
    return Observation(images=images, state=state, instruction=instructions)


def _play(output: Path, *, tasks: tuple[str, ...], episodes: int) -> None:
    from rdvla.config import load_config
    from rdvla.evaluation import evaluate, write_report
    from rdvla.evaluation.config import EvaluationConfig

    options = ["--config", "demo", f"--output={output}", f"--episodes={episodes}"]
    if tasks:
        options.append(f"--tasks=[{', '.join(tasks)}]")
    evaluate(load_config(EvaluationConfig, options))
    print(f"written: {write_report([output], output / 'report.html')}")
    print("next: open it in a browser")
