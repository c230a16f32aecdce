"""Policy servers in processes of their own, on free ports of this machine, for benchmarks that ask them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS = 300.0  # loading torch and a policy on a busy machine
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers."""

    address: str  # ws://127.0.0.1:PORT
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def memory_mib(self) -> float:
        """Return the resident memory of the process and of the replicas that it started, MiB (Linux)."""
        pages = [int(_read(pid, "statm").split()[1]) for pid in self._processes()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def processor_seconds(self) -> float:
        """Return the processor time of the process and of the replicas that it started so far (Linux)."""
        # Fields 14 and 15; the name in front of them, in parentheses, may hold spaces.
        stats = [_read(pid, "stat").rpartition(")")[2].split() for pid in self._processes()]
        ticks = sum(int(each[11]) + int(each[12]) for each in stats)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> list[int]:
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        return found


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@contextmanager
def server_process(module: str, *arguments: str) -> Iterator[ServerProcess]:
    """Run `python -m module arguments --port PORT` until the block ends; wait until it answers /healthz.

    Raises:
        RuntimeError: it ends, or does not answer in time; the message holds the end of what it printed.
    """
    port = _free_port()
    command = [sys.executable, "-m", module, *arguments, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, port)
            yield ServerProcess(f"ws://127.0.0.1:{port}", process)
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}\n{log.read()[-2000:].decode(errors='replace')}") from error
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def rdvla_server(policy: str, *options: str) -> Iterator[ServerProcess]:
    """Run `rdvla serve POLICY`, as a user would."""
    path = str(Path(policy).resolve()) if Path(policy).exists() else policy
    with server_process("rdvla.cli", "serve", "--policy", path, *options) as server:
        yield server


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the server did not answer within {START_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
