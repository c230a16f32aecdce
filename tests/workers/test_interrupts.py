"""Ctrl-C reaches a command and all its worker processes at once, and only the command says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from dataclasses import dataclass
from rdvla.workers import LocalProcesses, run_jobs

@dataclass(frozen=True)
class Sleep:
    number: int
    def describe(self): return "sleeping"

class Sleeper:
    def run(self, job, ask):
        print("asleep", flush=True)
        time.sleep(600)
    def close(self): pass

if __name__ == "__main__":
    jobs = iter([Sleep(0), Sleep(1)])
    print("ready", flush=True)
    try:
        list(run_jobs(Sleeper(), lambda _: next(jobs, None), transport=LocalProcesses(), workers=2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no process groups")
@pytest.mark.parametrize("wait_for", [0.0, 0.2, 0.6, "asleep"])
def test_no_worker_shows_a_traceback_after_ctrl_c(tmp_path: Path, wait_for: float | str) -> None:
    """Whether they run, or are still being started."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        if isinstance(wait_for, float):
            time.sleep(wait_for)
        else:
            assert running.stdout.readline() == "asleep\n"
        os.killpg(running.pid, signal.SIGINT)
        _, shown = running.communicate(timeout=120)
    assert shown == ""
    assert running.returncode == 130
