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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chorus.errors import DataError, UsageError, nearest
from chorus.files import expanded
from chorus.models.languages import is_language
from chorus.plain import JsonMap, JsonObject

TEXTS = ("path", "text", "language", "speaker", "domain", "split")
NUMBERS = ("duration", "start", "end")
COLUMNS = TEXTS + NUMBERS
# NeMo: audio_filepath, offset. Common Voice: sentence, client_id, locale. FLEURS: raw_transcription, transcription.
# VoxPopuli: normalized_text. Folders of Hugging Face datasets: file_name
OTHER_NAMES = {  # what other tools call a column, tried where the column itself is missing
    "path": ("audio_filepath", "audio_path", "file_name", "file", "filename", "wav", "audio"),
    "text": ("sentence", "transcription", "transcript", "raw_transcription", "normalized_text"),
    "language": ("lang", "locale"),
    "speaker": ("speaker_id", "client_id", "spk_id"),
    "start": ("offset",),
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
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
    records, header = _records(path)
    names = _names(header, dict(columns or {}), path)
    missing = [c for c in needs if c not in names and c not in header]
    if missing:
        raise DataError(
            f"{path}: no column {' and no column '.join(missing)}; it has {', '.join(header) or 'none'}",
            f"name it: --columns {missing[0]}=NAME (or columns: in the configuration)",
        )
    root = expanded(audio_dir) if audio_dir else path.parent
    rows, problems = [], []
    for line, record in records:
        row, problem = _row(record, names, line, root)
        if problem:
            problems.append(f"line {line}: {problem}")
        rows.append(row)
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(problems[:SHOWN]) + more, "mend these rows, or take them out")
    return Manifest(rows, path, tuple(header), {k: v for k, v in names.items() if k != v})


def _records(path: Path) -> tuple[Iterable[tuple[int, JsonMap]], list[str]]:
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: not a manifest (known: {', '.join(SUFFIXES)})", "give a CSV, JSONL or Parquet file")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as parquet

            table = parquet.read_table(path)
            return enumerate(table.to_pylist(), 1), list(table.column_names)
        # Excel writes a byte order mark, which would be a part of the first column's name
        text = path.read_text(encoding="utf-8-sig")
    except ImportError:
        from chorus.errors import MissingExtraError

        raise MissingExtraError("audio", f"reading {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason})", "check the path of the manifest") from None
    except ValueError as error:  # pyarrow's errors
        raise DataError(f"{path}: cannot be read ({error})", "write the Parquet file again") from None
    if path.suffix in (".jsonl", ".json"):
        return _json_lines(text, path)
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ",")
    header = [name for name in reader.fieldnames or [] if name]
    return ((reader.line_num, record) for record in reader), header  # the file's line, where a text spans several


def _json_lines(text: str, path: Path) -> tuple[list[tuple[int, JsonMap]], list[str]]:
    records: list[tuple[int, JsonMap]] = []
    header: dict[str, None] = {}
    try:
        if text.lstrip().startswith("["):  # one array, as many tools write it, in place of lines
            values = list(enumerate(json.loads(text), 1))
        else:
            values = [(n, json.loads(line)) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON lines ({error})", "write one object a line") from None
    for line, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{path}: line {line} is not an object", "write one object a line")
        records.append((line, value))
        header.update(dict.fromkeys(map(str, value)))
    return records, list(header)


def _names(header: Sequence[str], given: dict[str, str], path: Path) -> dict[str, str]:
    """Chorus's column -> the file's."""
    for ours, theirs in given.items():
        if ours not in COLUMNS:
            raise UsageError(f'columns: "{ours}" is no column of a manifest{nearest(ours, COLUMNS)}')
        if theirs not in header:
            raise DataError(f'{path}: no column "{theirs}"{nearest(theirs, header)}', "check the column mapping")
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


def _row(record: JsonMap, names: Mapping[str, str], line: int, root: Path) -> tuple[Row, str]:
    texts = {c: _text(record.get(names[c])) for c in TEXTS if c in names}
    numbers: dict[str, float] = {}
    for column in NUMBERS:
        value = record.get(names.get(column, ""))
        if value is None or value == "":
            continue
        try:
            numbers[column] = float(value)
        except (TypeError, ValueError):
            return Row(line=line), f"{column} is {value!r}, not a number"
        if not math.isfinite(numbers[column]) or numbers[column] < 0:
            return Row(line=line), f"{column} is {value}"
    if "start" in names and names["start"] == "offset" and "start" in numbers and "duration" in numbers:
        # NeMo's way to cut: the duration counts from the offset
        numbers.setdefault("end", numbers["start"] + numbers["duration"])
    if numbers.get("end") is not None and numbers["end"] <= numbers.get("start", 0.0):
        return Row(line=line), f"end {numbers['end']:g} is not after start {numbers.get('start', 0.0):g}"
    used = set(names.values())
    extra = {str(k): v for k, v in record.items() if k and k not in used and v not in (None, "")}
    if "path" in names and not texts["path"]:
        return Row(line=line), "no path"
    if "end" in numbers:
        numbers.setdefault("start", 0.0)
    return row_of(texts, numbers, extra=extra, line=line, root=root), ""


def row_of(
    texts: Mapping[str, str], numbers: Mapping[str, float], *, extra: JsonObject, line: int, root: Path = Path()
) -> Row:
    """A row from its columns by name."""
    path, text, language, speaker, domain, split = (texts.get(c, "") for c in TEXTS)
    duration, start, end = (numbers.get(c) for c in NUMBERS)
    return Row(path, text, language, speaker, domain, split, duration, start, end, extra, line, root)


def _text(value: object) -> str:
    if isinstance(value, Mapping):  # an audio column of Hugging Face datasets
        value = value.get("path")
    return "" if value is None else str(value).strip()


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
            lines = [{c: r[c] for c in header if r.get(c) not in (None, "")} for r in records]
            path.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines), encoding="utf-8")
        else:
            path.write_text(manifest_text(rows, path), encoding="utf-8", newline="")  # csv has ended the lines itself
    return path


def manifest_text(rows: Sequence[Row], target: Path) -> str:
    """A CSV or TSV manifest's text, as it would be written to `target`."""
    records = [_record(row, target.parent) for row in rows]
    header, out = _header(records), io.StringIO()
    delimiter = "\t" if target.suffix == ".tsv" else ","
    # csv's own line break is Windows'
    writer = csv.DictWriter(out, header, delimiter=delimiter, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({c: "" if r.get(c) is None else r[c] for c in header} for r in records)
    return out.getvalue()


def _header(records: Sequence[JsonMap]) -> list[str]:
    """The columns that have a value, Chorus's first."""
    header = [c for c in COLUMNS if any(r.get(c) not in (None, "") for r in records) or c in ("path", "text")]
    # sorted: a set's order changes from process to process
    return header + sorted({k for r in records for k in r} - set(COLUMNS))


def _record(row: Row, home: Path) -> JsonObject:
    record: JsonObject = {c: getattr(row, c) for c in COLUMNS}
    if row.path:
        audio, folder = row.audio.resolve(), home.resolve()
        record["path"] = os.path.relpath(audio, folder) if _near(audio, folder) else str(audio)
    return {**record, **row.extra}


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
