"""The kinds of models that there are; others' come from the entry-point group `chorus.kinds`."""

from __future__ import annotations

from collections.abc import Callable

from chorus.models.kind import Kind
from chorus.plain import JsonMap
from chorus.registry import Registry


def _load() -> None:
    from chorus.models import causal, ctc, others, speech_llm, whisper

    for kind in (others.KIND, causal.KIND, ctc.KIND, speech_llm.KIND, whisper.KIND):  # the last is asked first
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
