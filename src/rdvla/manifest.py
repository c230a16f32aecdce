"""The JSON file that says what an exported folder holds: format, schema, and digests of its other files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rdvla.errors import RDVLAError
from rdvla.files import CHECKSUM, json_checksum, read_object, write_json
from rdvla.hashing import hash_file


def write_manifest(
    path: Path, content: Mapping[str, Any], *, form: str, schema: int, files: Iterable[Path]
) -> None:
    """Write a manifest with the digests of `files`, which lie next to it.

    Args:
        path: of the manifest.
        content: what else it says.
        form: name of the format.
        schema: its version.
        files: whose digests it holds.
    """
    digests = {file.name: hash_file(file) for file in sorted(files)}
    whole = json.loads(json.dumps({"format": form, "schema": schema, "files": digests} | dict(content)))
    write_json(path, whole | {CHECKSUM: json_checksum(whole)})


def read_manifest(
    path: Path, form: str, schemas: Iterable[int], *, what: str, made_by: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a manifest, and check that the files it names are whole.

    Args:
        path: of the manifest.
        form: the format that it must name.
        schemas: the versions that can be read.
        what: was exported, in a word.
        made_by: the command that writes such files.

    Returns:
        Its content, `schema` included, and its files' digests by name.

    Raises:
        RDVLAError: it is missing, damaged, of another format or version, or a file is missing or differs.
    """
    if not path.exists():
        raise RDVLAError(f"{path.parent} holds no {path.name}: it is no {what} made by `{made_by}`")
    content = read_object(path)
    recorded = content.pop(CHECKSUM, None)  # older ones have none
    if recorded not in (None, json_checksum(content)):
        raise RDVLAError(f"{path} is damaged or was changed: export the {what} again")
    if content.pop("format", None) != form:
        raise RDVLAError(f"{path} is not of a {what} made by `{made_by}`")
    known = sorted(schemas)
    if content.get("schema") not in known:
        raise RDVLAError(
            f"{path} has schema {content.get('schema')}, this version of rdvla reads "
            f"{', '.join(map(str, known))}: export the {what} again"
        )
    files = content.pop("files", None)
    if not isinstance(files, dict) or not files:
        raise RDVLAError(f"{path} is damaged: it must name the files of the export. Export the {what} again")
    for name, expected in files.items():
        file = path.parent / Path(name).name
        if not file.is_file():
            raise RDVLAError(f"{file} is missing: copy the whole folder, or export the {what} again")
        if hash_file(file) != expected:
            raise RDVLAError(f"{file} is damaged or was changed: export the {what} again")
    return content, files
