"""The languages in which people write recipes: each recognised by its documents, and translated into Chorus's own.

mergekit's YAML needs no translation: Chorus's schema is a superset of it. Others' dialects come from the entry-point
group `chorus.dialects`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from chorus.errors import RecipeError
from chorus.registry import Registry

Document = Mapping[str, object]


class Dialect(Protocol):
    """One way to write recipes."""

    def recognises(self, documents: Sequence[Document]) -> bool:
        """Whether these documents (of one file, in order) are written so."""

    def translate(self, documents: Sequence[Document]) -> dict[str, object]:
        """The same merge as one map of Chorus's schema; `ValueError` says what cannot be said there."""


def _load() -> None:
    """No other dialect is in this package yet."""


DIALECTS: Registry[Dialect] = Registry("dialect", "chorus.dialects", _load)


def translated(documents: Sequence[Document], source: str) -> tuple[dict[str, object], str]:
    """(the recipe's map, the dialect that it was written in: empty for Chorus's own and mergekit's)."""
    for name in DIALECTS.names():
        dialect = DIALECTS.get(name)
        if dialect.recognises(documents):
            try:
                return dialect.translate(documents), name
            except ValueError as error:
                raise RecipeError([f"{name}: {error}"], source=source) from None
    if len(documents) != 1:
        raise RecipeError(
            [
                f"{len(documents)} documents; several stages in one file come with a later version: write each into a "
                "file of its own, and name it as a model (model: stage.yml)"
            ],
            source=source,
        )
    return dict(documents[0]), ""
