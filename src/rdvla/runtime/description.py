"""`runtime.json`: what an exported folder holds and how to run it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rdvla.errors import RDVLAError
from rdvla.files import read_object, write_json
from rdvla.runtime.stop import Stop

NAME = "runtime.json"
FORMAT = "rdvla-onnx"
SCHEMA = 2
GRAPH = "policy.onnx"  # observation, or features, to actions
INSTRUCTION_GRAPH = "instruction.onnx"  # tokens to what the other graph takes of an instruction
TOKENIZER = "tokenizer.json"  # of a published instruction encoder


@dataclass(frozen=True)
class Description:
    """Everything about an export but its graphs."""

    part: str  # policy, or head: features in, normalised actions out
    precision: str  # fp32, or int8: weights of matrix products
    chunk_size: int  # K
    action_dim: int  # A
    hidden_dim: int  # D, width of the latent state
    initial_state_std: float  # of S_0, a normal distribution cut at three times it
    stop: Stop  # where none is given
    execution: str  # how many actions select_action() runs before the next query, as `parse_execution` reads
    cameras: tuple[str, ...] = ()
    image_size: int = 0  # pixels, square
    state_dim: int = 0  # S, proprioception
    tokenizer: str = ""  # bytes, or tokenizers: the file beside it
    longest_instruction: int = 0  # bytes or tokens; 0: no limit
    start: str = "noise"  # of select_action()'s queries, a kind of `WarmStart`
    weights: str = ""  # fingerprint of the policy that was exported, as in results.json

    def write(self, folder: Path) -> None:
        """Write `runtime.json` with digests of all other files of the folder."""
        digests = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != NAME}
        write_json(folder / NAME, {"format": FORMAT, "schema": SCHEMA, "files": digests} | asdict(self))


def read_description(folder: Path) -> Description:
    """Read `runtime.json`, and check that the files it names are whole.

    Raises:
        RDVLAError: it is missing, damaged or of another version, or a file is missing or differs.
    """
    path = folder / NAME
    content = read_content(path, FORMAT, SCHEMA, what="policy", made_by="rdvla export")
    files = content.pop("files", None)
    description = _decode(content, path)
    if not isinstance(files, dict) or GRAPH not in files:
        raise RDVLAError(f"{path} is damaged: it must name the files of the export. Export the policy again")
    check_files(folder, files)
    return description


def read_content(path: Path, form: str, schema: int, *, what: str, made_by: str) -> dict[str, Any]:
    """Read the description of an export, less its format and schema.

    Args:
        path: of the file.
        form: the format that it must name.
        schema: the version that it must have.
        what: was exported, in a word.
        made_by: the command that writes such files.

    Raises:
        RDVLAError: it is missing, of another format or of another version.
    """
    if not path.exists():
        raise RDVLAError(f"{path.parent} holds no {path.name}: it is no {what} made by `{made_by}`")
    content = read_object(path)
    if content.pop("format", None) != form:
        raise RDVLAError(f"{path} is not of a {what} made by `{made_by}`")
    found = content.pop("schema", None)
    if found != schema:
        raise RDVLAError(
            f"{path} has schema {found}, this version of rdvla reads {schema}: export the {what} again"
        )
    return content


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Check files of an export against their digests.

    Raises:
        RDVLAError: one is missing, or differs.
    """
    for name, expected in files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise RDVLAError(f"{path} is missing: copy the whole folder, or export the policy again")
        if digest(path) != expected:
            raise RDVLAError(f"{path} is damaged or was changed: export the policy again")


def _decode(content: dict[str, Any], path: Path) -> Description:
    known = {field.name for field in fields(Description)}
    try:
        stop = Stop(**content.pop("stop"))
        cameras = tuple(content.pop("cameras"))
        strays = sorted(content.keys() - known)
        if strays:
            raise TypeError(f"unknown entry {strays[0]!r}")
        return Description(stop=stop, cameras=cameras, **content)
    except (TypeError, KeyError, ValueError) as error:
        raise RDVLAError(f"{path} is damaged: {error}. Export the policy again") from error
