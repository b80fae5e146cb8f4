"""A manifest: one row an utterance, as CSV, TSV, JSONL or Parquet; paths are relative to the file.

path                       the audio file (a language model's text has none)
text                       what is said
language speaker domain    what it belongs to
split                      train, dev or test
duration start end         seconds; start and end cut an utterance out of a longer file
anything else              kept as it is: labels of other tasks, sources, groups
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from chorus.data.audio import SUFFIXES as AUDIO
from chorus.data.records import SUFFIXES, read_records
from chorus.errors import DataError, UsageError, nearest
from chorus.files import expanded, present, shown
from chorus.models.languages import is_language
from chorus.plain import JsonMap, JsonObject

TEXTS = ("path", "text", "language", "speaker", "domain", "split")
NUMBERS = ("duration", "start", "end")
COLUMNS = TEXTS + NUMBERS
T = TypeVar("T")
SECOND = "audio_2"  # the other recording of a pair
ASKED = (  # columns that tasks look at (docs/tasks.md): kept as they are, and found under other names where told
    SECOND, "start_2", "end_2", "speaker_2", "task", "answer", "choices", "instruction", "question", "prompt",
    "keyword", "label", "intent", "emotion",
)  # fmt: skip
# NeMo: audio_filepath, offset. Common Voice: sentence, client_id, locale. FLEURS: raw_transcription, transcription.
# VoxPopuli: normalized_text. Folders of Hugging Face datasets: file_name
OTHER_NAMES = {  # what other tools call a column, tried where the column itself is missing
    "path": ("audio_filepath", "audio_path", "file_name", "file", "filename", "wav", "audio"),
    "text": ("sentence", "transcription", "transcript", "raw_transcription", "normalized_text"),
    "language": ("lang", "locale"),
    "speaker": ("speaker_id", "client_id", "spk_id"),
    "start": ("offset",),
}
NUMBERED = ("speaker", "domain", "split")  # what may be called by a number, where a file has types
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|[+-]?inf(inity)?", re.IGNORECASE)
SHOWN = 5  # problems of a kind that a message spells out


@dataclass(frozen=True)
class Row:
    """One utterance. Empty strings and None stand for what the manifest does not say."""

    path: str = ""
    text: str = ""
    language: str = ""
    speaker: str = ""
    domain: str = ""
    split: str = ""
    duration: float | None = None
    start: float | None = None
    end: float | None = None
    extra: JsonObject = field(default_factory=dict, hash=False)
    line: int = 0  # in the manifest, for messages
    root: Path = Path()  # what `path` is relative to

    @property
    def audio(self) -> Path:
        """Where the audio is."""
        return self.root / expanded(self.path)

    @property
    def length_s(self) -> float | None:
        """Seconds of the utterance as far as the manifest tells."""
        if self.start is not None and self.end is not None:
            return self.end - self.start
        return self.duration

    def get(self, column: str) -> str:
        """A column's value as text, one of Chorus's or any other."""
        value = getattr(self, column) if column in COLUMNS else self.extra.get(column, "")
        return "" if value is None else str(value)

    def __str__(self) -> str:
        part = f" [{self.start:g} to {self.end:g} s]" if self.start is not None and self.end is not None else ""
        return f"{self.path or 'line ' + str(self.line)}{part}"


@dataclass(frozen=True)
class Manifest:
    """Rows and the file that they came from; `renamed` tells which columns other names were taken for."""

    rows: list[Row]
    source: Path
    columns: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def read_manifest(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    needs: Sequence[str] = ("path", "text"),
    audio_dir: str | Path | None = None,
) -> Manifest:
    """Read a manifest; every row that cannot be understood is in the message of one `DataError`.

    Paths count from the manifest's folder, or from `audio_dir`. `columns` maps Chorus's names to the file's
    ({"text": "sentence"}). `needs` must be there, under some name.
    """
    path = expanded(source)
    records = read_records(path)
    names = column_names(records.header, columns or {}, path)
    missing = [c for c in needs if c not in names and c not in records.header]
    if missing:
        raise _lacking(missing, records.header, path)
    root = expanded(audio_dir) if audio_dir else path.parent
    rows, problems = [], []
    for place, record in records.rows:
        try:
            rows.append(_row(record, names, place, root))
        except ValueError as problem:
            problems.append(f"{records.place} {place}: {problem}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(f"{shown(path)}: " + "; ".join(problems[:SHOWN]) + more, "mend these rows, or take them out")
    return Manifest(rows, path, tuple(records.header), {k: v for k, v in names.items() if k != v})


def named_manifest(text: str) -> tuple[str, str]:
    """`[NAME=]MANIFEST` in two; a file whose own path has a = in it is one.

    >>> named_manifest("talks=dev.csv"), named_manifest("dev.csv")
    (('talks', 'dev.csv'), ('', 'dev.csv'))
    """
    name, equals, path = text.partition("=")
    return (name, path) if equals and not present(expanded(text)) else ("", text)


def _lacking(missing: Sequence[str], header: Sequence[str], path: Path) -> DataError:
    """What is wrong with a header: another separator, none at all, other names."""
    told = f"{shown(path)}: no column {' and no column '.join(missing)}; it has {shown(', '.join(header)) or 'none'}"
    only = header[0] if len(header) == 1 else ""
    if any(mark in only for mark in ";|\t"):
        return DataError(told, "its fields stand behind another mark than the suffix says: .csv has commas, .tsv tabs")
    if any(name.lower().endswith(AUDIO) for name in header):
        return DataError(told, f"it begins with a row: give it a first line of names, such as {','.join(missing)}")
    other = "; or say what is asked, if it is not for texts: --task" if "text" in missing else ""
    return DataError(told, f"name it: --columns {missing[0]}=NAME (or columns: in the configuration){other}")


def column_names(header: Sequence[str], given: Mapping[str, str], source: object) -> dict[str, str]:
    """Chorus's column -> the file's."""
    for ours, theirs in given.items():
        if ours not in (*COLUMNS, *ASKED):
            raise UsageError(f'columns: "{ours}" is no column of a manifest{nearest(ours, (*COLUMNS, *ASKED))}')
        if theirs not in header:
            raise DataError(f'{source}: no column "{theirs}"{nearest(theirs, header)}', "check the column mapping")
    names = dict(given)
    for column in COLUMNS:
        if column in names:
            continue
        if column in header:
            names[column] = column
        else:
            taken = set(names.values())
            # `audio` may be the path already, `sentence` the text: no column is taken twice
            known = [n for n in OTHER_NAMES.get(column, ()) if n in header and n not in taken]
            if known:
                names[column] = known[0]
    return names


def _row(record: JsonMap | str, names: Mapping[str, str], line: int, root: Path) -> Row:
    """The row of a record; `ValueError` says what is wrong with it."""
    if isinstance(record, str):
        raise ValueError(record)
    for column in ("path", "text"):  # lines of JSON need not have the same keys
        if column in names and names[column] not in record:
            others = [n for n in (column, *OTHER_NAMES[column]) if n in record]
            if others:
                raise ValueError(f"no {names[column]}, but {others[0]}")
    texts = {c: text_of(record.get(names[c], ""), c) for c in TEXTS if c in names}
    numbers = {c: n for c in NUMBERS if c in names and (n := _number(record.get(names[c]), c)) is not None}
    if "start" in names and names["start"] == "offset" and "start" in numbers and "duration" in numbers:
        # NeMo's way to cut: the duration counts from the offset
        numbers.setdefault("end", numbers["start"] + numbers["duration"])
    if numbers.get("end") is not None and numbers["end"] <= numbers.get("start", 0.0):
        raise ValueError(f"end {numbers['end']:g} is not after start {numbers.get('start', 0.0):g}")
    used = names.values()
    extra = {str(k): v for k, v in record.items() if k and k not in used and v not in (None, "")}
    extra |= asked_of(record, names)
    if "path" in names and not texts["path"]:
        raise ValueError("no path")
    if "end" in numbers:
        numbers.setdefault("start", 0.0)
    return row_of(texts, numbers, extra=extra, line=line, root=root)


def asked_of(record: JsonMap, names: Mapping[str, str]) -> JsonObject:
    """The columns of tasks that a record has under other names."""
    return {c: record[names[c]] for c in ASKED if c in names and record.get(names[c]) not in (None, "")}


def _number(value: object, column: str) -> float | None:
    """Seconds; None where there are none. Python itself reads `1_0` and other scripts' digits as numbers too."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not (isinstance(value, int | float) or NUMBER.fullmatch(str(value).strip())):
        raise ValueError(f"{column} is {shown(repr(value))}, not a number")
    found = float(value) if isinstance(value, int | float | str) else math.nan
    if not math.isfinite(found) or found < 0:
        raise ValueError(f"{column} is {shown(value)}")
    return found


def text_of(value: object, column: str) -> str:
    """A column of texts; `ValueError` where it holds something else. Speakers and the like may have numbers."""
    if column == "path" and isinstance(value, Mapping):  # an audio column of Hugging Face datasets
        if value.get("bytes") and not value.get("path"):
            raise ValueError("the audio lies in the file itself: read it as dataset:, not as manifest:")
        value = value.get("path")
    if value is None:  # a text too: as an empty one it is told, and may be left out
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool) and column in NUMBERED:
        return str(int(value)) if float(value).is_integer() else str(value)
    if not isinstance(value, str):
        raise ValueError(f"{column} is {shown(repr(value))}, not a text in quotes")
    if "\0" in value:
        raise ValueError(f"{column} holds a NUL character")
    return value.strip()


def row_of(
    texts: Mapping[str, str], numbers: Mapping[str, float], *, extra: JsonObject, line: int, root: Path = Path()
) -> Row:
    """A row from its columns by name."""
    text, number = texts.get, numbers.get  # a loop over the names costs more than the row itself
    return Row(
        text("path", ""), text("text", ""), text("language", ""), text("speaker", ""), text("domain", ""),
        text("split", ""), number("duration"), number("start"), number("end"), extra, line, root,
    )  # fmt: skip


def write_manifest(rows: Sequence[Row], target: str | Path) -> Path:
    """Write rows in the form that the suffix names, paths relative to the file where they can be."""
    path = Path(target)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    records = [_record(row, path.parent) for row in rows]
    header = _header(records)
    from chorus.checkpoints.writer import explained

    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            import pyarrow as arrow
            import pyarrow.parquet as parquet

            parquet.write_table(arrow.table({c: [r.get(c) for r in records] for c in header}), path)
        elif path.suffix in (".jsonl", ".json"):
            lines = [{c: r[c] for c in header if c == "text" or r.get(c) not in (None, "")} for r in records]
            path.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines), encoding="utf-8")
        else:
            path.write_text(manifest_text(rows, path), encoding="utf-8", newline="")  # csv has ended the lines itself
    return path


def manifest_text(rows: Sequence[Row], target: Path) -> str:
    """A CSV or TSV manifest's text, as it would be written to `target`; every field in quotes where one needs them."""
    records = [_record(row, target.parent) for row in rows]
    header, out = _header(records), io.StringIO()
    lines = [["" if r.get(c) is None else str(r[c]) for c in header] for r in records]
    tabs = target.suffix == ".tsv"
    # a quote in a TSV, or a text of several lines, can be read in one way only where all fields stand in quotes
    doubtful = re.compile('["\t\r\n]' if tabs else "[\r\n]")
    every = any(doubtful.search(one) for line in lines for one in line)
    # csv's own line break is Windows'
    writer = csv.writer(
        out, delimiter="\t" if tabs else ",", lineterminator="\n", quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    )
    writer.writerows([header, *lines])
    return out.getvalue()


def _header(records: Sequence[JsonMap]) -> list[str]:
    """The columns that have a value, Chorus's first."""
    header = [c for c in COLUMNS if any(r.get(c) not in (None, "") for r in records) or c in ("path", "text")]
    # sorted: a set's order changes from process to process
    return header + sorted({k for r in records for k in r} - set(COLUMNS))


def _record(row: Row, home: Path) -> JsonObject:
    record: JsonObject = {c: getattr(row, c) for c in COLUMNS} | row.extra
    for column in ("path", SECOND):
        if path := row.get(column).strip():
            record[column] = _path_from(home, row.root / expanded(path))
    return record


def _path_from(home: Path, audio: Path) -> str:
    """A recording as a manifest in `home` names it."""
    audio, folder = audio.resolve(), home.resolve()
    return os.path.relpath(audio, folder) if _near(audio, folder) else str(audio)


def _near(audio: Path, folder: Path) -> bool:
    """Whether a relative path says more than an absolute one: they share more than the root."""
    return len(audio.parts) > 1 and len(folder.parts) > 1 and audio.parts[:2] == folder.parts[:2]


def select(rows: Iterable[Row], where: JsonMap) -> list[Row]:
    """The rows whose columns have one of the given values: {"speaker": ["ana", "rui"], "split": "train"}.

    A language has many names: {"language": "pt"} takes `pt-BR` and `Portuguese` too.
    """
    wanted = {c: {str(v) for v in (vs if isinstance(vs, list | tuple | set) else [vs])} for c, vs in where.items()}

    def chosen(row: Row, column: str, values: set[str]) -> bool:
        value = row.get(column)
        return value in values or (column == "language" and any(is_language(value, v) for v in values))

    return [row for row in rows if all(chosen(row, c, values) for c, values in wanted.items())]


def groups(rows: Iterable[Row], column: str | Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by a column's value, in the order of first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(column(row) if callable(column) else row.get(column), []).append(row)
    return found


def with_split(row: Row, split: str) -> Row:
    """The row in another split."""
    return replace(row, split=split)


def spread(rows: Sequence[T], limit: int | None) -> list[T]:
    """At most so many rows, taken evenly: the first ones of a manifest may all be of one domain or speaker.

    >>> spread(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    count = min(limit or len(rows), len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
