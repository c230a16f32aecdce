"""`rdvla data inspect`."""

from __future__ import annotations

from pathlib import Path


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
    reader = open_reader(root)
    facts = gather(reader)
    console = Console(highlight=False)
    show(facts, console if console.is_terminal else Console(highlight=False, width=WIDTH_OF_A_FILE))
    if output is not None:
        with optional("data,report"):
            from rdvla.data.inspect.page import write_page
            from rdvla.data.inspect.pictures import contact_sheet

        findings = check_dataset(root).findings
        write_page(output, facts, sheet=contact_sheet(reader, facts), findings=findings)
        print(f"{output} is written: open it in a browser")
    print(f"Next: rdvla train --dataset {dataset}")
