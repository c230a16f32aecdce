"""The documents as a site: it builds strictly and offline, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.support.documents import ROOT, pages


class Page(HTMLParser):
    """Links of a page, the places that a link may name, and what it loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values["src"]] if "src" in values else []
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loaded.append(values.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of a fresh build, by their path."""
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package, reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return {file: Page(file.read_text(encoding="utf-8")) for file in folder.rglob("*.html")}


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).scheme or urlsplit(address).netloc)


def test_every_page_is_in_the_site(site: dict[Path, Page]):
    names = {file.stem for file in site}
    assert {Path(page).stem for page in pages() if page.startswith("docs/")} <= names


def test_every_link_within_the_site_leads_somewhere(site: dict[Path, Page]):
    for file, page in site.items():
        if file.name == "404.html":
            continue  # its links start at the server's root
        for link in (link for link in page.links if not is_elsewhere(link)):
            path, place = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{file.name}: {link}"
            if place and target in site:
                assert place in site[target].places, f"{file.name}: {link}"


def test_no_page_loads_anything_from_elsewhere(site: dict[Path, Page]):
    for file, page in site.items():
        assert not [address for address in page.loaded if is_elsewhere(address)], file.name


def test_the_first_page_opens_with_tasks(site: dict[Path, Page]):
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert text.index("What do you want to do?") < 500 and "|---" not in text


@pytest.mark.parametrize("page", pages())
def test_links_to_files_of_the_checkout_lead_somewhere(page: str):
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8")):
        for child in token.children or ():
            address = str(child.attrs.get("href") or child.attrs.get("src") or "")
            path = unquote(urlsplit(address).path)
            if path and not is_elsewhere(address):
                assert ((ROOT / page).parent / path).exists(), f"{page}: {address}"


def test_no_block_is_indented():
    """Within a list an indented block becomes a paragraph: fences say what is code."""
    for page in pages():
        tokens = MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8"))
        assert not [token.content for token in tokens if token.type == "code_block"], page
        assert not re.search(
            r"^ {4,}rdvla \w", "\n".join(token.content for token in tokens if token.type == "inline"), re.M
        ), page
