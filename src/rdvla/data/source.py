"""Where a dataset comes from: a local folder, or the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from rdvla.data.layout import CODEBASE_VERSION
from rdvla.errors import DatasetError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ALLOWED_FILES = ["meta/**/*.json", "meta/*.json", "**/*.parquet", "**/*.mp4"]


def locate(root: Path | str, *, revision: str | None = None) -> Path:
    """The dataset's local folder; one that is only on the hub is downloaded (parquet, JSON, MP4 only).

    Args:
        root: a folder, or a hub id "user/name". A folder that exists wins.
        revision: branch, tag or commit on the hub; None: the tag v3.0 that LeRobot sets, or else the main
            branch.

    Raises:
        DatasetError: neither a folder nor a dataset that can be downloaded.
    """
    folder = Path(root).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(root, Path) or not HUB_ID.fullmatch(root):
        raise DatasetError(f"{root} is not a folder, and not a hub id like 'user/name'")
    return _download(root, [revision] if revision else [CODEBASE_VERSION, None])


def _download(repository: str, revisions: list[str | None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    for revision in revisions:
        try:
            return Path(
                snapshot_download(
                    repository, repo_type="dataset", revision=revision, allow_patterns=ALLOWED_FILES
                )
            )
        except RevisionNotFoundError:
            continue
        except Exception as error:  # the hub's client raises its own, requests' and the system's errors
            raise DatasetError(
                f"{repository} is no local folder and cannot be downloaded: {error}"
            ) from error
    raise DatasetError(f"{repository} has no revision {revisions[0]!r} on the hub")
