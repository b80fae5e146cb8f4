"""What must hold of the files of an evaluation before anything is told of them.

Form: keys and types as facts.py has them, numbers that are numbers. Content: each utterance once under each condition,
rows that were not changed since they were written (by the summary's digest), or, of results without a digest, rows
whose counts are those of their texts, and a summary that is theirs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from chorus.errors import DataError
from chorus.evaluate.facts import STRICT, Measures, Summary
from chorus.evaluate.scores import COLUMNS, by_column, count_facts, known, unit_of, value_of
from chorus.evaluate.summary import main_rows
from chorus.files import parse_json, read_json, read_lines, shown
from chorus.identity import fingerprint
from chorus.settings import dotted
from chorus.tasks.counts import total
from chorus.tasks.protocol import Task
from chorus.tasks.scored import Answer, Scored
from chorus.transcribe.request import FORMAT

AGAIN = "evaluate again with --overwrite"
CLOSE = 1e-6  # of rates, which are written to the last digit


@with_config(STRICT)
class _Rows(TypedDict):
    rows: list[Answer]


@cache
def _forms() -> tuple[TypeAdapter[Summary], TypeAdapter[_Rows]]:
    return TypeAdapter(Summary), TypeAdapter(_Rows)


def read_summary(path: Path) -> Summary:
    """summary.json, of the right form."""
    document = read_json(path, raises=DataError, what="summary of an evaluation")
    if document.get("kind") != "evaluation":
        raise DataError(f"{path}: not the summary of an evaluation", "name what `chorus evaluate` wrote")
    # never read as well as may be: a number that is counted in another way looks like any other
    if document.get("format") != FORMAT:
        raise DataError(f"{path}: written by another version of Chorus", AGAIN)
    return document_of(document, path)


def document_of(document: Mapping[str, object], path: Path) -> Summary:
    """A summary of the right form; `DataError` names the first key that is not."""
    try:
        return _forms()[0].validate_python(document)
    except ValidationError as error:
        raise _damaged(path, error) from None


def read_rows(path: Path) -> list[Answer]:
    """The lines of results.jsonl, of the right form."""
    found = []
    for number, line in read_lines(path, raises=DataError, what="results of an evaluation"):
        if line.strip():
            found.append(parse_json(line, f"{path}: line {number}", raises=DataError))
    return rows_of(found, path)


def rows_of(rows: Sequence[object], path: Path) -> list[Answer]:
    """Rows of the right form; `DataError` names the first that is not, and its key."""
    try:
        return _forms()[1].validate_python({"rows": list(rows)})["rows"]
    except ValidationError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: ValidationError) -> DataError:
    first = error.errors()[0]
    return DataError(f"{path}: damaged ({shown(dotted(first['loc']))}: {first['msg'].lower()})", AGAIN)


def digest_of(summary: Summary, rows: Sequence[Answer]) -> str:
    """What both say, by content: the same of JSON lines and of Parquet."""
    return fingerprint(rows=rows, summary={key: value for key, value in summary.items() if key != "digest"})


def check_rows(summary: Summary, rows: Sequence[Answer], where: Path) -> None:
    """Each utterance once under each condition, and as many as the summary says."""
    if not rows:
        raise DataError(f"{where}: no rows, of which nothing can be said", AGAIN)
    keys = Counter((row["name"], row["condition"]) for row in rows)
    (name, condition), times = keys.most_common(1)[0]
    if times > 1:
        raise DataError(f"{where}: {shown(name)} stands {times} times under {shown(condition)}", AGAIN)
    names, conditions = {name for name, _ in keys}, summary["conditions"]
    strange = sorted({condition for _, condition in keys} ^ set(conditions))
    if strange or len(set(conditions)) < len(conditions):
        told = f"the summary names {', '.join(map(shown, conditions))}; {', '.join(map(shown, strange)) or 'one twice'}"
        raise DataError(f"{where}: rows and summary have other conditions: {told}", AGAIN)
    count = summary["test"]["utterances"]
    if len(names) != count or len(rows) != count * len(conditions):
        raise DataError(
            f"{where}: {len(rows)} rows of {len(names)} utterances; the summary has {count} under each of "
            f"{len(conditions)} conditions", AGAIN,
        )  # fmt: skip


def check_counts(summary: Summary, rows: Sequence[Answer], scored: Sequence[Scored], task: Task, where: Path) -> None:
    """The counts that rows and summary hold are those of the texts."""
    for row, one in zip(rows, scored, strict=True):
        counted = {"unit": one.unit, "errors": one.counts.errors, "length": one.counts.length}
        for key, value in counted.items():
            if row.get(key, value) != value:
                raise DataError(
                    f"{where}: {shown(row['name'])}: {key} is {row.get(key)}, its texts give {value}", AGAIN
                )
    for key, found, written in _measured(summary, scored, task):
        if not _equal(found, written):
            raise DataError(f"{where}: the summary has {shown(written)} as {shown(key)}, the rows give {found}", AGAIN)


def _measured(summary: Summary, scored: Sequence[Scored], task: Task) -> Iterator[tuple[str, object, object]]:
    """(key of the summary, what the rows give, what it holds) of everything that is not resampled or timed."""
    main, conditions = main_rows(scored, summary["conditions"]), by_column(scored, "condition")
    yield from _of_rows("all", main, summary["all"])
    yield "conditions_measured", sorted(conditions), sorted(summary["conditions_measured"])
    for name, part in conditions.items():
        yield from _of_rows(f"conditions_measured.{name}", part, summary["conditions_measured"][name])
        for metric in task.metrics[1:] if name in summary["metrics"] else ():
            written = summary["metrics"][name].get(metric.name)
            yield f"metrics.{name}.{metric.name}", known(value_of(part, metric)), written and written["value"]
    yield "by", sorted(set(summary["by"]) & set(COLUMNS)), sorted(summary["by"])
    for column, groups in summary["by"].items():
        parts = {name or "(none)": part for name, part in by_column(main, column).items()}
        yield f"by.{column}", sorted(parts), sorted(groups)
        for name, part in parts.items():
            yield from _of_rows(f"by.{column}.{name}", part, groups[name])


def _of_rows(key: str, rows: Sequence[Scored], told: Measures) -> Iterator[tuple[str, object, object]]:
    words, characters = total(row.words for row in rows), total(row.characters for row in rows)
    found = {
        "utterances": len(rows), "failed": sum(bool(row.failed) for row in rows), "cut": sum(row.cut for row in rows),
        "empty_references": sum(not row.reference for row in rows), "unit": unit_of(rows),
        "words": count_facts(words), "characters": count_facts(characters), "error_rate": known(value_of(rows)),
        "wer": known(words.error_rate), "cer": known(characters.error_rate),
    }  # fmt: skip
    written = cast(Mapping[str, object], told)
    for name, value in found.items():
        yield f"{key}.{name}", value, written[name]


def _equal(found: object, written: object) -> bool:
    if isinstance(found, float) and isinstance(written, float | int):
        return math.isclose(found, written, rel_tol=CLOSE, abs_tol=CLOSE)
    return found == written
