"""Find a dataset on the disk; download it first if it is only on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdvla.data.formats.registry import FORMATS, find_format
from rdvla.data.remote.mirror import Streaming, make_mirror
from rdvla.data.remote.source import is_address
from rdvla.errors import DatasetError
from rdvla.files import HUB_ID


def locate_all(roots: Path | str | Sequence[Path | str], *, streaming: Streaming | None = None) -> list[Path]:
    """Return the local paths of one or several datasets.

    Args:
        roots: a path, hub id or address, several of them in one text with commas between, or a sequence of
            them.
        streaming: where to keep the files of datasets that are streamed; None: hub ids are downloaded whole,
            and addresses have the usual place.

    Raises:
        DatasetError: as `locate`, or no dataset is named.
    """
    named = _split(roots)
    if not named or "" in named:
        raise DatasetError(f"{named}: name one or several folders, hub ids or addresses of datasets")
    return [locate(root, streaming=streaming) for root in named]


def hub_ids(roots: Path | str | Sequence[Path | str]) -> list[str]:
    """Return those of the names that `locate_all` would look up on the hub."""
    names = [root for root in _split(roots) if not Path(root).expanduser().exists()]
    return [str(name) for name in names if not is_address(name)]


def _split(roots: Path | str | Sequence[Path | str]) -> Sequence[Path | str]:
    if isinstance(roots, str) and not Path(roots).expanduser().exists():
        return [name.strip() for name in roots.split(",")]
    return [roots] if isinstance(roots, Path | str) else roots


def locate(root: Path | str, *, streaming: Streaming | None = None) -> Path:
    """Return the dataset's local path, after downloading a dataset from the hub, or what is not streamed.

    Args:
        root: a folder or file, or a hub id "user/name" or "user/name@revision" (branch, tag or commit). If no
            revision is given, the tag of a known format counts, or else the main branch. An address like
            s3://bucket/folder is streamed. A path that exists wins.
        streaming: where to keep the files of a streamed dataset; if given, hub datasets are streamed too.

    Raises:
        DatasetError: it is neither a folder nor a dataset that can be downloaded (with the reason), or has an
            unknown format; then nothing but the formats' marker files was downloaded.
    """
    path = Path(root).expanduser()
    if path.exists():
        return path
    if is_address(root):
        return make_mirror(str(root), streaming or Streaming.of("", None))
    match = None if isinstance(root, Path) else HUB_ID.fullmatch(root)
    if match is None:
        raise DatasetError(
            f"{root} is not a folder, not a hub id like 'user/name', and not an address like s3://bucket/folder"
        )
    repository, revision = match["repository"], match["revision"]
    revision = revision or _default_revision(repository)
    markers = list(dict.fromkeys(name for known in FORMATS if known.hub for name in known.hub.markers))
    found = find_format(_download(repository, revision, markers), name=repository)
    if found.hub is None:
        raise DatasetError(f"{repository}: datasets of the format {found.name} are read from folders only")
    if streaming is not None:
        return make_mirror(f"hf://datasets/{repository}@{_commit(repository, revision)}", streaming)
    return _download(repository, revision, found.hub.content)


def _commit(repository: str, revision: str | None) -> str:
    """Return the commit of a revision, which nobody can change while a run uses it."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repository, revision=revision).sha)
    except Exception as error:  # the client also raises its connection's and the system's errors
        raise DatasetError(f"{repository} cannot be streamed: {error}") from error


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
