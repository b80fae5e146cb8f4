"""Orders of tasks, by name, in which a model is taught one after another.

The names are those of a study of merging speech LLMs, which spells out the first two; the others are our reading of
what their names say. `--only` takes any order.
"""

from __future__ import annotations

from chorus.errors import UsageError, nearest

ORDERS: dict[str, tuple[str, ...]] = {
    "compatible_acoustic": ("speaker_ver", "langid", "kws", "asr"),
    "conflicting_stress": ("asr", "intent", "emotion", "speaker_ver"),
    # asr is never taught: what becomes of it is measured
    "heldout_asr_probe": ("speaker_ver", "langid", "kws", "intent"),
    "semantic_to_speaker": ("intent", "asr", "kws", "langid", "speaker_id", "speaker_ver"),
    "speaker_to_semantic": ("speaker_ver", "speaker_id", "langid", "kws", "asr", "intent"),
}


def order(name: str) -> tuple[str, ...]:
    """The tasks of an order; `UsageError` names the nearest."""
    if name not in ORDERS:
        raise UsageError(f'unknown order "{name}"{nearest(name, ORDERS)}', "or give the tasks: --only TASK, repeated")
    return ORDERS[name]
