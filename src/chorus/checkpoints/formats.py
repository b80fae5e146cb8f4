"""The forms in which a single file (or a directory without config.json) is a model: each recognised, each opened.

One module a form; others' come from the entry-point group `chorus.formats`. Recipes are one of them: a planned merge
is read as a model is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from chorus.checkpoints.model import Model, OpenOptions
from chorus.registry import Registry


class Format(Protocol):
    """One form of a model's file."""

    def takes(self, path: Path) -> bool:
        """Whether a path is in this form, as its name or first bytes tell."""

    def open(self, path: Path, part: str, label: str, options: OpenOptions) -> Model:
        """The model, no weight read. `part` names one of several that a file holds; empty where none is named."""


def _load() -> None:
    from chorus.checkpoints.pickled import Pickled  # which unpickles nothing without leave

    FORMATS.add("openai-whisper, SALMONN", Pickled())


FORMATS: Registry[Format] = Registry("model format", "chorus.formats", _load)


def format_of(path: Path) -> Format | None:
    """The form that takes a path; None where none does."""
    # by name, so that the choice does not depend on what is installed first
    return next((form for form in FORMATS if form.takes(path)), None)
