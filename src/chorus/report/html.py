"""One self-contained page: pictures and tables inside, nothing loaded from anywhere, every number with its command."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus.errors import MissingExtraError
from chorus.tables import Table, as_html


@dataclass(frozen=True)
class Picture:
    """A plot with what it shows, in a sentence."""

    title: str
    text: str
    svg: Path

    @property
    def data(self) -> str:
        """The picture as a URL that needs no file."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.read_bytes()).decode()}"


@dataclass(frozen=True)
class Command:
    """What makes a row's numbers again."""

    name: str
    lines: list[str]

    @property
    def anchor(self) -> str:
        return anchor_of(self.name)


@dataclass
class Page:
    """Everything on the page, in its order."""

    title: str
    lead: list[str]
    pictures: list[Picture]
    tables: list[Table]
    commands: list[Command]
    facts: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""


def anchor_of(name: str) -> str:
    """The place of a system's commands on the page.

    >>> anchor_of("ties[density=0.5]")
    'cmd-ties-density-0-5'
    """
    return "cmd-" + re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def render(page: Page) -> str:
    """The page as HTML."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("evaluate", "the HTML report") from None
    environment = Environment(
        loader=PackageLoader("chorus.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    known = {c.name: c.anchor for c in page.commands}

    def anchor(row: Sequence[str]) -> str | None:
        """Where the commands are of the system that a row begins with."""
        name = row[0].removesuffix(" †").split(" (")[0]
        return known.get(row[0]) or known.get(name)

    rendered = [(table.title, as_html(table, link=anchor)) for table in page.tables]
    return environment.get_template("report.html").render(page=page, tables=rendered)
