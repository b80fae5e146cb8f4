"""For the site: links from the pages to files of the source lead to the repository."""

from __future__ import annotations

import re

SOURCE = "https://github.com/chorus-merge/chorus/blob/main/"


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: a page with `](../FILE)` made absolute."""
    return re.sub(r"\]\(\.\./", f"]({SOURCE}", markdown)
