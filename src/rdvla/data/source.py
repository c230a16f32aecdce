"""Where a dataset comes from: a local folder, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdvla.data.dataset_files import DatasetFiles
from rdvla.data.info import check_version
from rdvla.data.layout import CODEBASE_VERSION, INFO_PATH
from rdvla.errors import DatasetError
from rdvla.files import HUB_ID

ALLOWED_FILES = ["meta/**/*.json", "meta/*.json", "**/*.parquet", "**/*.mp4"]


def locate_all(roots: Path | str | Sequence[Path | str]) -> list[Path]:
    """The local folders of one or several datasets.

    Args:
        roots: a folder or hub id, several of them in one text with commas between, or a sequence of them.

    Raises:
        DatasetError: as `locate`, or no dataset is named.
    """
    named = _split(roots)
    if not named or "" in named:
        raise DatasetError(f"{named}: name one or several folders or hub ids of datasets")
    return [locate(root) for root in named]


def hub_ids(roots: Path | str | Sequence[Path | str]) -> list[str]:
    """Which of the datasets that `locate_all` finds by these names come from the hub."""
    return [str(root) for root in _split(roots) if not Path(root).expanduser().is_dir()]


def _split(roots: Path | str | Sequence[Path | str]) -> Sequence[Path | str]:
    if isinstance(roots, str) and not Path(roots).expanduser().is_dir():
        return [part.strip() for part in roots.split(",")]
    return [roots] if isinstance(roots, Path | str) else roots


def locate(root: Path | str) -> Path:
    """The dataset's local folder; one that is only on the hub is downloaded (parquet, JSON, MP4 only).

    Args:
        root: a folder, or a hub id "user/name", or "user/name@revision" with a branch, tag or commit (else
            the tag v3.0 that LeRobot sets, or the main branch). A folder that exists wins.

    Raises:
        DatasetError: neither a folder nor a dataset that can be downloaded, with the reason, or a dataset in
            another format, of which nothing but meta/info.json is downloaded.
    """
    folder = Path(root).expanduser()
    if folder.is_dir():
        return folder
    match = None if isinstance(root, Path) else HUB_ID.fullmatch(root)
    if match is None:
        raise DatasetError(f"{root} is not a folder, and not a hub id like 'user/name'")
    repository, revision = match["repository"], match["revision"]
    revision = revision or _default_revision(repository)
    info = DatasetFiles(_download(repository, revision, [INFO_PATH])).json(INFO_PATH)
    check_version(info, repository)
    return _download(repository, revision, ALLOWED_FILES)


def _default_revision(repository: str) -> str | None:
    """The tag that LeRobot gives to datasets of this format, where there is one; None: the main branch.

    Offline there is one where the cache holds it. Any other failure is an error: the main branch may hold
    other data than the tag, and which of them is read must not depend on how the connection is today.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    try:
        _download(repository, CODEBASE_VERSION, [INFO_PATH])
    except DatasetError as error:
        # A connection that fails gives a LocalEntryNotFoundError too, and does not say that there is no tag.
        missing = (RevisionNotFoundError, *([LocalEntryNotFoundError] if constants.HF_HUB_OFFLINE else []))
        if isinstance(error.__cause__, missing):
            return None
        raise
    return CODEBASE_VERSION


def _download(repository: str, revision: str | None, files: list[str]) -> Path:
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


def _snapshot(repository: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=files))
