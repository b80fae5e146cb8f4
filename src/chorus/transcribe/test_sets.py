"""What is transcribed: the rows of manifests, checked before a model is loaded, each under a name that stays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.audio import LONGEST_S
from chorus.data.choices import TASK, needs_of, of_task, with_choices
from chorus.data.manifest import Row, groups, named_manifest, read_manifest, select, spread
from chorus.data.parallel import in_order
from chorus.data.utterance import Utterance, fault_of, length_of
from chorus.errors import DataError, MisfitError
from chorus.identity import fingerprint
from chorus.tasks.registry import TASKS

if TYPE_CHECKING:
    from chorus.transcribe.backends.protocol import Loaded

SHOWN = 5
JOBS = 4


@dataclass
class TestSet:
    """Utterances under unique names, and what was left out: reason -> names."""

    __test__ = False  # not a test of pytest's

    utterances: dict[str, Utterance]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[Hashable, Loaded] = field(default_factory=dict, compare=False, repr=False)  # for the next system

    @property
    def fingerprint(self) -> str:
        """The utterances by name, audio, text and language."""
        rows = [[name, u.key(), u.row.text, u.row.language] for name, u in self.utterances.items()]
        return fingerprint(rows=rows)

    @property
    def hours(self) -> float:
        return sum(u.duration_s for u in self.utterances.values()) / 3600


def load_test_set(
    manifests: Sequence[str | Path],
    *,
    split: str | None = None,
    where: Mapping[str, object] | None = None,
    columns: Mapping[str, str] | None = None,
    audio_dir: str | Path | None = None,
    language: str = "",
    limit: int | None = None,
    skip_bad: bool = False,
    task: str = "asr",
) -> TestSet:
    """The rows to transcribe: of the split asked for, else `test` where there is one, else all.

    `NAME=MANIFEST` names a set; rows without a domain get it as their domain. Of a task whose answers are labels each
    row gets its choices (data/choices.py). Raises `DataError` for unreadable audio (left out and counted with
    `skip_bad`), for answers that are no choices, and where nothing is left.
    """
    rows: list[Row] = []
    every: list[Row] = []
    others: list[str] = []
    asked = TASKS.get(task)
    for given in manifests:
        name, path = named_manifest(str(given))
        manifest = read_manifest(path, columns=columns, audio_dir=audio_dir, needs=needs_of(asked))
        mine = of_task(manifest.rows, asked)
        every += mine
        taken = set(map(id, mine))
        others += [str(row) for row in manifest.rows if id(row) not in taken]
        chosen = _of_split(mine, split)
        chosen = select(chosen, where or {})
        if not chosen:
            of = {} if len(mine) == len(manifest) else {TASK: task}
            only = {**of, **({"split": split} if split else {}), **(where or {})}
            told = f" (asked for: {', '.join(f'{k} = {_either(v)}' for k, v in only.items())})" if only else ""
            raise MisfitError(f"{path}: none of its {len(manifest)} rows is left{told}", "check --split and --where")
        rows += [replace(r, domain=r.domain or name, language=r.language or language) for r in spread(chosen, limit)]
    found = of_rows(with_choices(rows, asked, every), skip_bad=skip_bad, task=task)
    return replace(found, left_out={**found.left_out, **({"of other tasks": others} if others else {})})


def _either(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def of_rows(rows: Sequence[Row], *, skip_bad: bool = False, task: str = "") -> TestSet:
    """The rows as a test set; `DataError` as `load_test_set` says, with the `task` where it is known."""
    every = looked_at(rows, task)
    found = [one for one in every if isinstance(one, Utterance)]
    bad = [one for one in every if isinstance(one, str)]
    if bad and not skip_bad:
        told = "\n".join(f"  {line}" for line in bad[:SHOWN])
        told += f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"{len(bad)} of {len(rows)} recordings cannot be read\n{told}",
            "mend them, or leave them out (evaluate: --skip-bad)",
        )
    if not found:
        raise DataError("no recording is left to transcribe")
    return TestSet(_unique(found), {"unreadable": bad} if bad else {})


def _of_split(rows: list[Row], split: str | None) -> list[Row]:
    if split == "all":
        return rows
    if split:
        return [r for r in rows if r.split == split]
    tests = [r for r in rows if r.split == "test"]
    return tests if tests else rows


def looked_at(rows: Sequence[Row], task: str = "") -> list[Utterance | str]:
    """Each row with the length of its audio, as its header tells; or what is wrong with it."""

    def look(row: Row) -> Utterance | str:
        try:
            length = length_of(row)
        except DataError as error:
            return error.message
        if length <= 0:
            return f"{fault_of(row, task or row.get(TASK))[1]}: no audio there"
        if length > LONGEST_S:
            return f"{row}: {length / 3600:.1f} h; at most {LONGEST_S / 3600:g} are read at once"
        return Utterance(row, length)

    return list(in_order(look, rows, JOBS))


def _unique(utterances: Sequence[Utterance]) -> dict[str, Utterance]:
    """By path and cut; the same path in several folders gets the folder's name, what is still the same a number."""
    several = {
        name for name, rows in groups([u.row for u in utterances], str).items() if len({r.root for r in rows}) > 1
    }
    names: dict[str, Utterance] = {}
    for u in utterances:
        name = f"{u.row.root.name}/{u.row}" if str(u.row) in several else str(u.row)
        count, base = 1, name
        while name in names:
            count += 1
            name = f"{base} ({count})"
        names[name] = u
    return names
