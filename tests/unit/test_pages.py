"""The pages: every link and anchor leads somewhere, all stand in the site, and what is generated is up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

import chorus

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks of code, in which `](` is no link and `#` no heading."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def broken(page: Path) -> list[str]:
    """The links of a page to files or anchors that are not there."""
    found = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_anchors_lead_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# A b\n[1](#a-b) [2](#c) [3](no.md) [4](a.md#a-b)\n```\n[5](x)\n```\n")
    assert broken(page) == ["#c", "no.md"]


def test_links_to_the_source_are_text_in_the_site():
    change = runpy.run_path(str(DOCS / "source_links.py"))["on_page_markdown"]
    assert change("[a](../src/a.py), [b](b.md)", page=None) == "a, [b](b.md)"


def leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves(part)]


def test_every_page_stands_in_the_site_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(leaves(nav)) == sorted(p.name for p in DOCS.glob("*.md"))


def test_the_python_page_shows_every_public_name_once():
    shown = re.findall(r"^::: chorus\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted([*shown, "__version__"]) == sorted([*chorus.__all__, "testing"])


def test_what_is_generated_is_up_to_date():
    generated = runpy.run_path(str(DOCS / "generate.py"))["generated"]()
    assert sorted(p.name for p in generated) == ["README.md", "methods.md"]
    stale = [p.name for p, text in generated.items() if p.read_text(encoding="utf-8") != text]
    assert stale == [], "run: make tables"


def test_marks_that_are_missing_or_doubled_are_refused():
    between = runpy.run_path(str(DOCS / "generate.py"))["between"]
    marked = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb"
    assert between(marked, "x", "new \\1") == "a\n<!-- x:begin -->\nnew \\1\n<!-- x:end -->\nb"
    for text in ("a", marked + marked):
        with pytest.raises(ValueError, match="one is needed"):
            between(text, "x", "new")


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 250
    first = next(line for line in lines if line.startswith("**")).strip("*")
    assert len(first.split()) <= 30, "the first sentence says it in one breath"
