"""For the site: links from the pages to files of the source, which the site does not hold, become their text."""

from __future__ import annotations

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: a page without the links `[TEXT](../FILE)`, TEXT left."""
    return re.sub(r"\[([^\[\]]+)\]\(\.\./[^()\s]+\)", r"\1", markdown)
