"""The kinds of models that there are; others' come from the entry-point group `chorus.kinds`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from chorus import models
from chorus.models.kind import Kind
from chorus.plain import JsonMap
from chorus.registry import Registry


def _load() -> None:
    """Every file beside this one that defines a `KIND`; their configs do not overlap (a test)."""
    for found in iter_modules(models.__path__):
        kind = getattr(import_module(f"{models.__name__}.{found.name}"), "KIND", None)
        if isinstance(kind, Kind):
            KINDS.add(kind.name, kind)


KINDS: Registry[Kind] = Registry("kind of model", "chorus.kinds", _load)


def kind_of(config: JsonMap) -> Kind | None:
    """The kind that a config is of; another package's before Chorus's own, so that it may take a model over."""
    return next((kind for kind in KINDS.latest_first() if kind.recognises(config)), None)


def peft_task(config: JsonMap) -> str | None:
    """PEFT's task type for adapters of this model."""
    kind = kind_of(config)
    return kind.peft_task if kind is not None else None


def covered(wanted: Callable[[Kind], bool]) -> str:
    """The models of the wanted kinds, for messages."""
    return ", ".join(kind.covers for kind in KINDS if wanted(kind))
