"""`evaluate(config)`: run every task under every setting and write the run directory."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rdvla.control import Desk, check_fits, parse_execution
from rdvla.errors import ConfigError, RDVLAError, optional
from rdvla.evaluation.config import EvaluationConfig
from rdvla.evaluation.episodes import episode_jobs, play_jobs
from rdvla.evaluation.fitness import Fits, check_cameras, check_policy, open_environments, recorded_sizes
from rdvla.evaluation.journal import RECORD, Journal, same_run
from rdvla.evaluation.live import LiveSpectator, live_page
from rdvla.evaluation.placing import policy_place
from rdvla.evaluation.players import Player, PolicyPlayer, ServerPlayer, Staging
from rdvla.evaluation.protocol import Suite, make_environment, resolve_suites
from rdvla.evaluation.provenance import command_line, describe_hardware, describe_policy
from rdvla.evaluation.records import Episode
from rdvla.evaluation.results import Results
from rdvla.evaluation.server import ServerUnderTest
from rdvla.evaluation.summaries import summarise
from rdvla.evaluation.table import print_table
from rdvla.evaluation.timing import earlier_timing
from rdvla.files import sole_user, write_json
from rdvla.hashing import fingerprint as fingerprint_of
from rdvla.policy import RDVLAPolicy, choose_device
from rdvla.rollout import (
    Attendance,
    Environment,
    MakeEnvironment,
    Opened,
    Policy,
    Recording,
)
from rdvla.workers import LocalProcesses, Transport


def evaluate(config: EvaluationConfig, *, console: Console | None = None) -> Path:
    """Evaluate a saved policy, or a policy server, in simulators; return the path of `results.json`.

    A run directory that already holds finished episodes of the same evaluation is continued.

    Raises:
        ConfigError: unknown task, setting or simulator, or the output holds another evaluation.
        RDVLAError: the policy cannot be loaded, its server does not answer, or workers keep dying.
    """
    suites = resolve_suites(config)
    if config.server:
        return _evaluate_server(config, suites, console=console)
    # A policy that leaves for a GPU of the cluster is taken there from this machine's memory.
    device = choose_device("cpu" if config.ray_gpus or config.ray_policies > 1 else config.device)
    policy = RDVLAPolicy.from_pretrained(config.policy).to(device)
    config = dataclasses.replace(config, execution=config.execution or (policy.config.execution,))
    for rule in config.execution:
        check_fits(parse_execution(rule), chunk_size=policy.config.head.chunk_size)
    check_cameras(policy.config, [suite.env for suite in suites])
    make = functools.partial(
        make_environment,
        cameras=policy.config.cameras,
        image_size=max(height for height, _ in recorded_sizes(policy.config).values()),
        max_steps={suite.env: suite.max_steps for suite in suites},
        rendering=config.rendering,
    )
    return evaluate_policy(
        policy,
        config,
        suites=suites,
        make=make,
        provenance=describe_policy(policy, config.policy),
        fingerprint=fingerprint_of(policy),
        fits=functools.partial(check_policy, policy.config, allow_other_robot=config.allow_other_robot),
        console=console,
    )


def _evaluate_server(config: EvaluationConfig, suites: Sequence[Suite], *, console: Console | None) -> Path:
    tested = ServerUnderTest.reach(config, [suite.env for suite in suites])
    return evaluate_player(
        ServerPlayer(tested.server),
        tested.config,
        suites=suites,
        make=functools.partial(
            make_environment,
            cameras=tested.cameras,
            image_size=tested.image_size,
            max_steps={suite.env: suite.max_steps for suite in suites},
            rendering=config.rendering,
        ),
        provenance=tested.provenance,
        fingerprint=tested.fingerprint,
        compared=tested.compared,
        fits=tested.check,
        console=console,
    )


def evaluate_policy(
    policy: Policy,
    config: EvaluationConfig,
    *,
    suites: Sequence[Suite],
    make: MakeEnvironment[Environment],
    provenance: dict[str, Any],
    fingerprint: str,
    fits: Fits | None = None,
    desk: Desk | None = None,
    console: Console | None = None,
) -> Path:
    """Evaluate a policy of the caller's own, in environments that `make` builds; see `evaluate`.

    Every environment is opened once in a worker before the first episode.

    Args:
        policy: gives the actions.
        config: has to name an execution rule.
        suites: what to play in each environment.
        make: build an environment in a worker; has to pickle.
        provenance: what is known of the policy, for the results.
        fingerprint: tells its weights from others.
        fits: raise if the policy cannot act in what was opened (`rdvla.rollout.Opened` by environment).
        desk: where programs step in, besides people on the live page; None: only they, if there is a page.
        console: for progress and the table.

    Raises:
        RDVLAError: an environment does not open, or every episode ended with an exception. In the latter
            case the results have been written.
    """
    torch.set_num_threads(config.threads)
    return evaluate_player(
        PolicyPlayer(policy, batching=config.batching, elsewhere=policy_place(config)),
        config,
        suites=suites,
        make=make,
        provenance=provenance,
        fingerprint=fingerprint,
        fits=fits,
        desk=desk,
        console=console,
    )


def evaluate_player(
    player: Player,
    config: EvaluationConfig,
    *,
    suites: Sequence[Suite],
    make: MakeEnvironment[Environment],
    provenance: dict[str, Any],
    fingerprint: str,
    fits: Fits | None,
    compared: Mapping[str, Any] | None = None,
    desk: Desk | None = None,
    console: Console | None,
) -> Path:
    """Evaluate whoever answers the queries; see `evaluate_policy`, and for `compared` `same_run`."""
    if not config.execution:
        raise ConfigError("execution is empty; name at least one rule")
    if config.record and not config.record_autonomous and desk is None and config.live is False:
        raise ConfigError(
            "record: nobody can step in. Give --live true, or --record_autonomous true for whole episodes"
        )
    output = Path(config.output)
    console = console or Console()
    start = time.perf_counter()
    with sole_user(output):
        limits = {suite.env: suite.max_steps for suite in suites}
        record = same_run(
            output,
            config,
            limits=limits,
            fingerprint=fingerprint,
            preparation=provenance.get("preparation"),
            compared=compared,
        )
        jobs = episode_jobs(config, suites)
        timing = earlier_timing(output / "results.json")  # before any work, as the file may be damaged
        with closing(Journal(output / "episodes.jsonl")) as journal:
            missing = [job for job in jobs if not journal.finished(job.key)]
            opened: dict[str, Opened] = {}
            with ExitStack() as stack:
                transport: Transport = LocalProcesses()
                workers = 1
                if missing:
                    transport, workers = stack.enter_context(config.worker_choice.transport())
                    stack.enter_context(player.placed())
                    left = [suite for suite in suites if any(job.env == suite.env for job in missing)]
                    opened = open_environments(
                        left, make=make, seed=config.seed, workers=workers, transport=transport
                    )
                    if fits is not None:
                        fits(opened, console=console)
                write_json(output / RECORD, record)  # only now: a pair that is refused leaves the folder free
                with _attended(config, opened, desk, fingerprint=fingerprint, console=console) as (
                    spectator,
                    attendance,
                ):
                    staging = Staging(make, workers, transport, spectator=spectator, attendance=attendance)
                    play_jobs(player, config, missing, staging=staging, journal=journal, console=console)
                if missing and config.timing_seconds and not config.server:
                    console.print(
                        f"measuring times per query, {config.timing_seconds:g} s ...", highlight=False
                    )
                    stops = list(dict.fromkeys(setting.stop for setting in config.settings))
                    timing = player.time(stops, seconds=config.timing_seconds)
        # A label is for people: the episodes of an earlier call may have had another.
        label = config.policy_label
        episodes = [dataclasses.replace(journal.episodes[job.key], policy=label) for job in jobs]
    meta = {
        "config": {**dataclasses.asdict(config), "output": output.name, "batching": record["batching"]},
        "protocol": {
            suite.env: {"tasks": list(suite.tasks), "max_steps": suite.max_steps} for suite in suites
        },
        "policy": {**provenance, "fingerprint": fingerprint},
        "hardware": describe_hardware(),
        "timing": timing,
        "command": command_line(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),  # a continued run counts from its continuation
    }
    results = Results(rows=summarise(episodes), episodes=episodes, meta=meta)
    results.write(output / "results.json")
    print_table(results, console=console)
    _check_some_ended(episodes, output / "results.json")
    if spectator is not None and spectator.problem is not None:
        raise spectator.problem
    return output / "results.json"


@contextmanager
def _attended(
    config: EvaluationConfig,
    opened: Mapping[str, Opened],
    desk: Desk | None,
    *,
    fingerprint: str,
    console: Console,
) -> Iterator[tuple[LiveSpectator | None, Attendance | None]]:
    """Show and record the episodes as the configuration says; yield who sees them, and who may step in."""
    attended = desk is not None or config.live is not False or bool(config.record)
    desk = desk or Desk()
    recorder: AbstractContextManager[Recording | None] = nullcontext()
    if config.record:
        with optional("data"):  # nobody else needs its packages
            from rdvla.evaluation.recording import recording
        recorder = recording(config, opened, fingerprint=fingerprint, console=console)
    with (
        recorder as recorded,
        live_page(config, opened, desk, console=console) as spectator,
    ):
        yield spectator, Attendance(desk, recorded) if attended else None


def _check_some_ended(episodes: Sequence[Episode], path: Path) -> None:
    first = next((episode.error for episode in episodes if episode.error is not None), None)
    if first is not None and all(episode.error is not None for episode in episodes):
        raise RDVLAError(
            f"every episode ended with an exception ({len(episodes)} in all), so nothing was measured. The "
            f"first: {first.type}: {first.message}. {path} holds the tracebacks; the same command plays "
            "these episodes again"
        )
