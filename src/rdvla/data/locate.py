"""Find a dataset on the disk; download it first if it is only on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdvla.data.formats.registry import FORMATS, find_format
from rdvla.errors import DatasetError
from rdvla.files import HUB_ID


def locate_all(roots: Path | str | Sequence[Path | str]) -> list[Path]:
    """Return the local paths of one or several datasets.

    Args:
        roots: a path or hub id, several of them in one text with commas between, or a sequence of them.

    Raises:
        DatasetError: as `locate`, or no dataset is named.
    """
    named = _split(roots)
    if not named or "" in named:
        raise DatasetError(f"{named}: name one or several folders or hub ids of datasets")
    return [locate(root) for root in named]


def hub_ids(roots: Path | str | Sequence[Path | str]) -> list[str]:
    """Return those of the names that `locate_all` would look up on the hub."""
    return [str(root) for root in _split(roots) if not Path(root).expanduser().exists()]


def _split(roots: Path | str | Sequence[Path | str]) -> Sequence[Path | str]:
    if isinstance(roots, str) and not Path(roots).expanduser().exists():
        return [name.strip() for name in roots.split(",")]
    return [roots] if isinstance(roots, Path | str) else roots


def locate(root: Path | str) -> Path:
    """Return the dataset's local path, after downloading a dataset from the hub.

    Args:
        root: a folder or file, or a hub id "user/name" or "user/name@revision" (branch, tag or commit). If no
            revision is given, the tag of a known format counts, or else the main branch. A path that exists
            wins.

    Raises:
        DatasetError: it is neither a folder nor a dataset that can be downloaded (with the reason), or has an
            unknown format; then nothing but the formats' marker files was downloaded.
    """
    path = Path(root).expanduser()
    if path.exists():
        return path
    match = None if isinstance(root, Path) else HUB_ID.fullmatch(root)
    if match is None:
        raise DatasetError(f"{root} is not a folder, and not a hub id like 'user/name'")
    repository, revision = match["repository"], match["revision"]
    revision = revision or _default_revision(repository)
    markers = list(dict.fromkeys(name for known in FORMATS if known.hub for name in known.hub.markers))
    found = find_format(_download(repository, revision, markers), name=repository)
    if found.hub is None:
        raise DatasetError(f"{repository}: datasets of the format {found.name} are read from folders only")
    return _download(repository, revision, found.hub.content)


def _default_revision(repository: str) -> str | None:
    """Return the first tag of a known format that the dataset has; None: use the main branch.

    Offline it must be in the cache. Any other failure is an error: the main branch may hold other data than
    the tag, and today's connection must not decide which of them is read.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    # A connection that fails gives a LocalEntryNotFoundError too, which does not mean that there is no tag.
    missing = (RevisionNotFoundError, *([LocalEntryNotFoundError] if constants.HF_HUB_OFFLINE else []))
    for hub in (known.hub for known in FORMATS):
        if hub is None or hub.tag is None:
            continue
        try:
            _download(repository, hub.tag, hub.markers)
            return hub.tag
        except DatasetError as error:
            if not isinstance(error.__cause__, missing):
                raise
    return None


def _download(repository: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    failed = f"{repository} is no local folder and cannot be downloaded"
    try:
        return _snapshot(repository, revision, files)
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise DatasetError(
            f"{failed}: its owner grants access. Ask for it on https://huggingface.co/datasets/{repository}, "
            "then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise DatasetError(
            f"{failed}: the hub has no such dataset, or it is private (log in with `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise DatasetError(f"{failed}: it has no revision {revision!r}") from error
    except LocalEntryNotFoundError as error:
        raise DatasetError(
            f"{failed}: the hub cannot be reached, and the local cache does not hold its "
            f"{revision or 'main branch'}. Connect, name a local folder, or set HF_HUB_OFFLINE=1 to read "
            "what an earlier download left there"
        ) from error
    except Exception as error:  # the client also raises requests' and the system's errors
        raise DatasetError(f"{failed}: {error}") from error


def _snapshot(repository: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = list(files)
    return Path(
        snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns)
    )
