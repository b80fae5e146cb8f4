"""For the site: examples of docstrings (`>>> ...`) become blocks of code; Markdown would take them for quotations."""

from __future__ import annotations

import re

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).*)*", re.MULTILINE)
SKIP = re.compile(r"\s*# doctest: \+SKIP")


def fenced(text: str) -> str:
    """A docstring with its examples fenced, without what only doctest reads."""
    return EXAMPLE.sub(lambda found: f"```python\n{SKIP.sub('', found[0])}\n```", text)


class Examples(griffe.Extension):
    """Sees every object that the site shows, after its source was read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
