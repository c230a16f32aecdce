"""Checkpoints that are whole or absent, and that notice damage.

Layout of `<run>/checkpoints`:

    step-00000500/weights.safetensors     trainable weights and buffers
                  ema.safetensors         averaged weights
                  optimizer.safetensors   AdamW's running values
                  state.json              step, seconds, best validation so far, lengths of the run,
                                          size and CRC-32 of the files, CRC-32 of all this
    latest.json                           {"checkpoint": "step-00000500"}
    best.json                             the same, for the lowest validation loss

A checkpoint is written into a hidden folder, flushed, and renamed; `latest.json` moves on only after that.
So a kill at any moment leaves `latest.json` naming a complete checkpoint (or absent, before the first one).
"""

from __future__ import annotations

import math
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdvla.errors import RDVLAError
from rdvla.files import (
    CHECKSUM,
    flush,
    json_checksum,
    read_json,
    read_object,
    write_atomically,
    write_json,
)
from rdvla.training.schedule import Length

TENSOR_FILES = ("weights", "ema", "optimizer")
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(RDVLAError):
    """A checkpoint is missing, damaged, or belongs to another model; the message names its folder."""


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far."""

    step: int  # updates done when it was measured
    loss: float  # normalised units


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on, after `step` updates."""

    step: int
    weights: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    seconds: float = 0.0  # of training so far
    best: Best | None = None
    lengths: tuple[Length, ...] = ()  # of the run; a checkpoint of an older version does not say


@dataclass(frozen=True)
class _State:
    """The content of `state.json`."""

    step: int
    seconds: float
    best: Best | None
    lengths: tuple[Length, ...]
    files: Mapping[str, Any]  # name -> size and CRC-32


class CheckpointStore:
    """Writes, finds, checks and prunes the checkpoints of one run.

    Args:
        folder: `<run>/checkpoints`; made when first written to.
        keep: newest checkpoints that survive pruning, next to the best.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` updates."""
        return self.folder / f"step-{step:08d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, make it the latest (and best, if it is), prune, and return its folder.

        Raises:
            OSError: it cannot be written; the checkpoints before it stay as they are.
        """
        final = self.path(checkpoint.step)
        temporary = self.folder / f".{final.name}.tmp"
        self._remove_leftovers()
        try:
            temporary.mkdir(parents=True)
            _write_folder(temporary, checkpoint)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
            if isinstance(error, OSError) and error.filename is not None:
                error.filename = os.fsdecode(error.filename).replace(str(temporary), str(final))
            raise
        if final.exists():  # left by a run that was killed before `latest.json` named it
            self._discard(final)
        temporary.rename(final)
        flush(self.folder)
        best = self._name_best(checkpoint.best)
        write_json(self.folder / "latest.json", {"checkpoint": final.name})
        self._prune(newest=checkpoint.step, best=best)
        return final

    def check_room(self, checkpoint: Checkpoint) -> None:
        """Check, before any training, that the disk has room for one more checkpoint and its policy.

        Args:
            checkpoint: as large as those to come, but for the optimiser's values, which may not be there yet.

        Raises:
            CheckpointError: it has not; the message says how much is missing.
        """
        weights, averaged = (
            sum(tensor.nbytes for tensor in tensors.values())
            for tensors in (checkpoint.weights, checkpoint.ema)
        )
        needed = 2 * weights + 3 * averaged  # AdamW keeps two numbers per trained weight
        free = shutil.disk_usage(self.folder.parent).free
        if free < needed:
            raise CheckpointError(
                f"The disk of {self.folder.parent} has {free / 1e6:,.1f} MB left, and a checkpoint with its "
                f"policy takes {needed / 1e6:,.1f} MB: make room, or choose an output_dir on another disk."
            )

    def steps(self) -> list[int]:
        """Return the steps of all complete-looking checkpoints, ascending; their content is not checked."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(match.group(1)) for match in matches if match)

    def named(self, pointer: str) -> Path | None:
        """Return the folder that `latest` or `best` names, or None if there is no such pointer.

        Raises:
            CheckpointError: the pointer file is damaged.
        """
        file = self.folder / f"{pointer}.json"
        if not file.exists():
            return None
        try:
            name = read_json(file)["checkpoint"]
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise KeyError
        except (RDVLAError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged: it does not name a checkpoint") from error
        return self.folder / name

    def load(self, folder: Path) -> Checkpoint:
        """Read one checkpoint and verify every file of it.

        Raises:
            CheckpointError: a file is missing or its content is not what was written.
        """
        state = _read_state(folder)
        tensors = {name: _read_tensors(folder / f"{name}.safetensors", state.files) for name in TENSOR_FILES}
        return Checkpoint(
            step=state.step, seconds=state.seconds, best=state.best, lengths=state.lengths, **tensors
        )

    def load_latest(self, *, fall_back: bool = False) -> Checkpoint | None:
        """Return the checkpoint to resume from, or None if the run has none yet.

        Without `latest.json`, which a kill at the first checkpoint can prevent, it is the newest.

        Args:
            fall_back: if the latest checkpoint is damaged, take the newest intact one instead.

        Raises:
            CheckpointError: the latest checkpoint is damaged (and `fall_back` is off, or none is intact).
        """
        try:
            latest = self.named("latest")
            if latest is None and (steps := self.steps()):
                latest = self.path(steps[-1])
            return None if latest is None else self.load(latest)
        except CheckpointError as error:
            if not fall_back:
                raise CheckpointError(
                    f"The latest checkpoint cannot be used: {error}. "
                    "Resume with resume_from_previous=true to go on from the newest intact one."
                ) from error
        return self._newest_intact()

    def _newest_intact(self) -> Checkpoint:
        reasons = []
        for step in reversed(self.steps()):
            try:
                return self.load(self.path(step))
            except CheckpointError as error:
                reasons.append(str(error))
        raise CheckpointError(
            f"No checkpoint in {self.folder} is intact: {'; '.join(reasons) or 'there is none'}"
        )

    def _name_best(self, best: Best | None) -> Path | None:
        """Let `best.json` name the best checkpoint if it is there: a run that fell back may lack it."""
        folder = None if best is None else self.path(best.step)
        if best is None or folder is None or not folder.exists():
            (self.folder / "best.json").unlink(missing_ok=True)
            return None
        write_json(self.folder / "best.json", {"checkpoint": folder.name, "loss": best.loss})
        return folder

    def _prune(self, *, newest: int, best: Path | None) -> None:
        # Newer ones are damaged: the run fell back behind them, and they must not count as the newest.
        damaged = [step for step in self.steps() if step > newest]
        older = [step for step in self.steps() if step <= newest][: -self.keep]
        for step in (*damaged, *older):
            if self.path(step) != best:
                self._discard(self.path(step))

    def _discard(self, folder: Path) -> None:
        # Renamed first, so a kill during the removal leaves no half checkpoint under a valid name.
        trash = folder.with_name(f".{folder.name}.trash")
        shutil.rmtree(trash, ignore_errors=True)
        folder.rename(trash)
        shutil.rmtree(trash)

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_folder(folder: Path, checkpoint: Checkpoint) -> None:
    files: dict[str, Any] = {}
    for name in TENSOR_FILES:
        path = folder / f"{name}.safetensors"
        tensors: Mapping[str, Tensor] = getattr(checkpoint, name)
        with write_atomically(path) as written:
            save_file(
                {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, written
            )
        files[path.name] = _fingerprint(path)
    best = None if checkpoint.best is None else asdict(checkpoint.best)
    lengths = [asdict(length) for length in checkpoint.lengths]
    state = {"step": checkpoint.step, "seconds": checkpoint.seconds, "best": best, "lengths": lengths}
    state["files"] = files
    write_json(folder / "state.json", state | {CHECKSUM: json_checksum(state)})


def _fingerprint(path: Path) -> dict[str, int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return {"bytes": path.stat().st_size, "crc32": crc}


def _read_state(folder: Path) -> _State:
    damaged = f"checkpoint {folder} is damaged: state.json"
    try:
        content = read_object(folder / "state.json")
    except RDVLAError as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {error}") from error
    if content.pop(CHECKSUM, None) not in (None, json_checksum(content)):  # older versions wrote none
        raise CheckpointError(f"{damaged} is not what was written (its CRC-32 differs)")
    try:
        best, lengths = content["best"], content.get("lengths", [])
        state = _State(
            step=content["step"],
            seconds=float(content["seconds"]),
            best=None if best is None else Best(**best),
            lengths=tuple(Length(**length) for length in lengths),
            files=dict(content["files"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{damaged} lacks the entry {error}") from error
    except (TypeError, ValueError, RDVLAError) as error:
        raise CheckpointError(f"{damaged} has an entry of the wrong kind: {error}") from error
    if not _is_sound(state):
        raise CheckpointError(f"{damaged} has an entry that is no number, or out of range")
    if folder.name != f"step-{state.step:08d}":
        raise CheckpointError(f"{damaged} is of step {state.step}, which is not the folder's")
    return state


def _is_sound(state: _State) -> bool:
    best = state.best
    counts = [state.step, *(() if best is None else (best.step,))]
    counts += [count for length in state.lengths for count in (length.start, length.steps)]
    numbers = [state.seconds, *(() if best is None else (best.loss,))]
    return all(type(count) is int and 0 <= count < 10**8 for count in counts) and all(
        isinstance(number, int | float) and math.isfinite(number) for number in numbers
    )


def _read_tensors(path: Path, files: Mapping[str, Any]) -> dict[str, Tensor]:
    damaged = f"checkpoint {path.parent} is damaged: {path.name}"
    try:
        if _fingerprint(path) != files.get(path.name):
            raise CheckpointError(f"{damaged} is not what was written (size or CRC-32 differs)")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{damaged} cannot be read: {error}") from error
