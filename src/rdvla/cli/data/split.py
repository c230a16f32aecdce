"""`rdvla data split`."""

from __future__ import annotations

from pathlib import Path

from rdvla.cli.options import NotNegative, Share


def run(
    dataset: Path,
    first: Path,
    second: Path,
    *,
    fraction: Share | None = None,
    episodes: tuple[str, ...] = (),
    seed: NotNegative = 0,
) -> None:
    """Split a dataset into two LeRobot v3.0 datasets; video streams are copied, not encoded again.

    Args:
        dataset: folder of a LeRobot dataset (v2.0, v2.1 or v3.0).
        first: folder of the new dataset with the drawn or named episodes.
        second: folder of the new dataset with all others.
        fraction: share of each task's episodes that are drawn, above 0 and below 1.
        episodes: numbers and ranges of episodes, such as 0-9 12.
        seed: of the draw.
    """
    from rdvla.cli.data.transferring import text, write
    from rdvla.errors import ConfigError, optional
    from rdvla.files import check_writable

    with optional("data"):
        from rdvla.data.formats.registry import open_reader
        from rdvla.data.transfer.split import divide, parse_episodes

    if first.absolute() == second.absolute():
        raise ConfigError("the two parts need two folders")
    for output, option in ((first, "FIRST"), (second, "SECOND")):
        check_writable(output, option=option, folder=True)
    reader = open_reader(dataset).with_cameras(None)
    parts = divide(reader, fraction=fraction, episodes=parse_episodes(episodes), seed=seed)
    for output, chosen in zip((first, second), parts, strict=True):
        print(text(write([(dataset, chosen)], output)))
    print(f"Next: rdvla train --dataset {first}")
