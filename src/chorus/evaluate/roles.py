"""Which of some evaluations is the base, which the joint fine-tune, and which domain each specialist is at home in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from chorus.errors import MisfitError, UsageError, nearest
from chorus.evaluate.results import Evaluation
from chorus.models.languages import language_code


class SystemRole(NamedTuple):
    """What a system is to the others; `home` is a specialist's domain."""

    name: str
    home: str = ""


def roles_of(
    evaluations: Sequence[Evaluation], column: str, *, base: str | None = None, joint: str | None = None,
    specialists: Mapping[str, str] | None = None,
) -> dict[str, SystemRole]:  # fmt: skip
    """label -> role, as each evaluation says, unless it is said otherwise here."""
    labels = [one.label for one in evaluations]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise MisfitError(f"two results are called {sorted(twice)[0]}", "evaluate one again under NAME=MODEL")
    for label in filter(None, (base, joint, *(specialists or {}))):
        if label not in labels:
            raise UsageError(f'no result is called "{label}"{nearest(label, labels)}')
    values = {str(row.get(column, "")) for row in evaluations[0].rows}
    systems = {one.label: one.summary["system"] for one in evaluations}
    found = {label: SystemRole(told["role"], home_in(told["home"], column, values)) for label, told in systems.items()}
    found |= {label: SystemRole("specialist", domain) for label, domain in (specialists or {}).items()}
    if joint:
        found[joint] = SystemRole("joint")
    if base:
        found[base] = SystemRole("base")
    elif not any(role.name == "base" for role in found.values()):
        # a model from the hub says nothing of itself; where it is the only one beside trainings and merges, it is their
        # base
        plain = [label for label, role in found.items() if not role.name]
        if len(plain) == 1:
            found[plain[0]] = SystemRole("base")
    return found


def learnt_cells(trained_on: Mapping[str, Sequence[str]], column: str, cells: Collection[str]) -> set[str]:
    """The cells among what a system was trained on: by the column, else by values that are names of cells.

    >>> sorted(learnt_cells({"speaker": ["ana", "rui"], "language": ["pt"]}, "domain", ["ana", "rui", "eva"]))
    ['ana', 'rui']
    """
    if column == "language":
        codes = {language_code(value) for value in trained_on.get(column, ())}
        return {cell for cell in cells if cell and language_code(cell) in codes}
    # a language is no domain of its own, though it may be called like one
    others = [value for key, values in trained_on.items() if key != "language" for value in values]
    return set(trained_on.get(column, ())) & set(cells) or set(others) & set(cells)


def home_in(named: Mapping[str, object], column: str, values: set[str]) -> str:
    """The cell that a specialist was trained on: by the column, else by the one value that is a cell's name."""
    listed = {k: v[0] if isinstance(v, list) and v else v for k, v in named.items()}
    if column in listed:
        return str(listed[column])
    known = [str(v) for v in listed.values() if str(v) in values]
    # trained on several: at home in none of them alone
    return known[0] if len(known) == 1 else ""
