"""`rdvla data inspect`."""

from __future__ import annotations

from pathlib import Path

# The paper's augmentation, which the page shows.
PAPER = {"crop_area": 0.9, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}


def run(dataset: str, *, output: Path | None = None) -> None:
    """Show what a dataset holds: episodes, lengths, tasks, statistics and histograms; as a page also images.

    Args:
        dataset: folder of a dataset, or its id on the Hugging Face hub.
        output: also write an HTML page with images of some episodes, such as page.html.
    """
    from rich.console import Console

    from rdvla.errors import optional
    from rdvla.files import check_writable

    if output is not None:
        check_writable(output, option="--output")
    with optional("data,report"):
        from rdvla.data.check.check import check_dataset
        from rdvla.data.formats.registry import open_reader
        from rdvla.data.inspect.facts import gather
        from rdvla.data.inspect.terminal import WIDTH_OF_A_FILE, show
        from rdvla.data.locate import locate

    root = locate(dataset)
    reader = open_reader(root).with_cameras(None)
    facts = gather(reader)
    console = Console(highlight=False)
    show(facts, console if console.is_terminal else Console(highlight=False, width=WIDTH_OF_A_FILE))
    if output is not None:
        with optional("data,report"):
            from rdvla.data.inspect.page import write_page
            from rdvla.data.inspect.pictures import augmented, contact_sheet
            from rdvla.processing.augmentation import Augmentation

        shown = Augmentation(**PAPER)
        write_page(
            output,
            facts,
            sheet=contact_sheet(reader, facts),
            variations=augmented(reader, facts, augmentation=shown),
            augmentation=shown,
            findings=check_dataset(root).findings,
        )
        print(f"{output} is written: open it in a browser")
    print(f"Next: rdvla train --dataset {dataset}")
