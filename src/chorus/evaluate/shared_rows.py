"""The rows of several evaluations side by side: the same utterances in one order, or an error that says why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.errors import MisfitError
from chorus.evaluate.results import Evaluation
from chorus.tasks.scored import Scored

SHOWN = 3


def shared_rows(
    evaluations: Sequence[Evaluation], condition: str, normaliser: str | None, *, common: bool
) -> tuple[list[list[Scored]], list[str]]:
    """(each system's rows in one order, notes on what was left out); counted again only under another normaliser."""
    tables: list[dict[str, Scored]] = []
    for one in evaluations:
        if condition not in one.summary["conditions"]:
            raise MisfitError(
                f"{one.label} was not evaluated under {condition}", "evaluate it with the same --condition"
            )
        again = normaliser is not None and normaliser != one.normaliser
        scored = one.task.score(one.rows, normaliser or "", one.summary["unit"]) if again else one.scored
        tables.append({row.name: row for row in scored if row.condition == condition})
    first, notes = evaluations[0].label, []
    shared = set.intersection(*(set(t) for t in tables))
    for one, table in zip(evaluations, tables, strict=True):
        told = _difference(first, tables[0], one.label, table)
        if told and not common:
            raise MisfitError(told, "evaluate both on the same recordings, or compare what they share: --common")
        if told:
            notes.append(told)
    if not shared:
        raise MisfitError("the results share no utterance", "evaluate on the same recordings")
    order = [name for name in tables[0] if name in shared]
    # as written: under another normaliser two references could be the same that were not
    order = [n for n in order if len({table[n].raw_reference for table in tables}) == 1] if common else order
    return [[table[name] for name in order] for table in tables], notes


def _difference(a: str, first: Mapping[str, Scored], b: str, second: Mapping[str, Scored]) -> str:
    """What two results were not asked alike; empty where they were."""
    for one, own, other, theirs in ((a, first, b, second), (b, second, a, first)):
        missing = [name for name in own if name not in theirs]
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            return f"different recordings: {other} lacks {', '.join(missing[:SHOWN])}{more}, which {one} has"
    changed = [n for n in first if first[n].raw_reference != second[n].raw_reference]
    if changed:
        return f"different references: {changed[0]} and {len(changed) - 1} more differ between {a} and {b}"
    return ""
