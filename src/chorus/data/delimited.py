"""CSV and TSV, strictly: as many fields a record as the header has, line breaks at line feeds and nowhere else.

CSV quotes what holds a comma, a quote or a line break (RFC 4180). TSV as Common Voice writes it quotes nothing, so that
a quote is a letter; as pandas, Excel and R write it, it does as CSV does. Which of the two a file is shows in its names
(all of them in quotes) or in its fields (quotes doubled inside quotes, and none that stand alone). What can be read in
two ways is refused with its line: a quote that opens a sentence must not swallow the rows behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus.data.audio import SUFFIXES
from chorus.errors import DataError
from chorus.files import MAX_LINE, read_lines, shown

MAX_COLUMNS = 1000
MAX_SPAN = 100  # lines of one record: each costs another look at all before it
QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')  # possessive: half of a pair must not close it
Numbered = tuple[int, str]  # a line's number in the file, and the line without its end
Fields = list[str] | str  # of a record, or what is wrong with it


@dataclass
class Delimited:
    """A header, and records as they are read, by the line that each begins at; those that are none say why."""

    header: list[str]
    records: Iterable[tuple[int, Fields]] = ()


def read_table(path: Path, delimiter: str) -> Delimited:
    """A CSV (`,`) or TSV (tab) file; `DataError` where it is none, or can be read in two ways."""
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return Delimited([])
    quoted = all(QUOTED.fullmatch(name) for name in first[1].removesuffix("\r").split(delimiter))
    if delimiter == "\t" and not quoted:
        header = first[1].removesuffix("\r").split("\t")
        body = [(number, line.removesuffix("\r")) for number, line in lines if line.strip("\r")]
        return _table(path, delimiter, header, _unquoted(path, body))
    header = next(_Csv(path, delimiter, [], ambiguous=False).records(iter([first])))[1]
    # where every name stands in quotes every text does, and none of them is a letter
    return _table(path, delimiter, header, _Csv(path, delimiter, header, ambiguous=not quoted).records(lines))


def _lines(path: Path) -> Iterator[Numbered]:
    """The lines without their line feeds."""
    for number, line in read_lines(path, raises=DataError, what="manifest"):
        if "\0" in line:
            raise DataError(f"{shown(path)}: line {number:,} holds a NUL character", "is it UTF-16? save it as UTF-8")
        yield number, line.removesuffix("\n")


def _table(path: Path, delimiter: str, header: Sequence[str], body: Iterable[tuple[int, list[str]]]) -> Delimited:
    names = [name.strip() for name in header]
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{shown(path)}: {len(names):,} columns; the limit is {MAX_COLUMNS:,}", "is this a manifest?")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise DataError(f"{shown(path)}: the column {shown(twice)} stands twice", "rename one of them, or take it out")
    count = len(names)
    records = (
        (line, fields if len(fields) == count else _miscounted(fields, names, delimiter)) for line, fields in body
    )
    return Delimited(names, records)


def _miscounted(fields: Sequence[str], names: Sequence[str], delimiter: str) -> str:
    told = f"{len(fields)} field{'s' * (len(fields) != 1)}, the header has {len(names)}"
    if len(fields) < len(names):
        return told
    return told + (" (a text with a comma stands in quotes)" if delimiter == "," else " (a tab in a text?)")


def _unquoted(path: Path, body: list[Numbered]) -> Iterator[tuple[int, list[str]]]:
    """TSV's fields without the quotes of a program that quotes; as they stand where quotes are letters."""
    doubled = alone = 0
    for line, text in body:
        if "\r" in text:
            raise DataError(f"{shown(path)}: line {line:,} holds a carriage return", "end lines with line feeds")
        for one in text.split("\t") if '"' in text else ():
            if '"' in one and not QUOTED.fullmatch(one):
                alone = alone or line
            elif '""' in one[1:-1]:  # as only a program writes them
                doubled = doubled or line
    if doubled and alone:
        raise DataError(
            f"{shown(path)}: line {doubled:,} doubles its quotes as CSV does, and in line {alone:,} they are letters",
            "write it in one way: without quotes, with every field in quotes, or as JSONL",
        )
    for line, text in body:
        fields = text.split("\t")
        yield line, [_plain(one) for one in fields] if doubled else fields


def _plain(text: str) -> str:
    found = QUOTED.fullmatch(text)
    return found[1].replace('""', '"') if found else text


class _Csv:
    """A reader of records that may span lines; where `ambiguous`, those that do are looked at: a quote may be stray."""

    def __init__(self, path: Path, delimiter: str, header: Sequence[str], *, ambiguous: bool) -> None:
        self.path, self.delimiter, self.header, self.ambiguous = path, delimiter, header, ambiguous

    def records(self, lines: Iterator[Numbered]) -> Iterator[tuple[int, list[str]]]:
        """Each record with the line that it begins at."""
        for number, line in lines:
            if not line.strip("\r"):
                continue
            text = line
            while (fields := self._fields(text.removesuffix("\r"), number)) is None:
                text = f"{text}\n{self._next(lines, number, len(text))}"
            yield number, fields

    def _next(self, lines: Iterator[Numbered], first: int, length: int) -> str:
        """The line that a record goes on in."""
        number, line = next(lines, (0, ""))
        if not number:
            raise self._error(first, "a quote opens a field, and nothing closes it")
        if number - first >= MAX_SPAN or length > MAX_LINE:
            raise self._error(first, f"a quote opens a field that goes on past line {number:,}")
        if self.ambiguous and self._looks_like_a_row(line):
            raise self._error(first, f"a quote opens a field that goes on into line {number:,}, which looks like a row")
        return line

    def _fields(self, text: str, line: int) -> list[str] | None:
        """The fields of a record; None where a quoted one has no end yet."""
        if '"' not in text and "\r" not in text:  # as in most lines
            return text.split(self.delimiter)
        fields, at = [], 0
        while True:
            if text.startswith('"', at):
                found = QUOTED.match(text, at)
                if found is None:
                    return None
                fields.append(found[1].replace('""', '"'))
                at = found.end()
                if at < len(text) and text[at] != self.delimiter:
                    raise self._error(
                        line, f"behind a closing quote stands more: {shown(text[max(0, at - 20) : at + 20])}"
                    )
            else:
                end = text.find(self.delimiter, at)
                fields.append(text[at:] if end < 0 else text[at:end])
                at += len(fields[-1])
                if "\r" in fields[-1]:
                    raise self._error(line, "a carriage return (the line breaks of an old Mac?)")
            if at >= len(text):
                return fields
            at += 1

    def _looks_like_a_row(self, line: str) -> bool:
        """Whether a line has as many fields as a row, or the name of a recording among them."""
        fields = line.split(self.delimiter)
        return len(fields) == len(self.header) or any(one.strip(' "').lower().endswith(SUFFIXES) for one in fields)

    def _error(self, line: int, what: str) -> DataError:
        return DataError(
            f"{shown(self.path)}: line {line:,}: {what}",
            'write a quote inside quotes twice (""), put every field in quotes, or write JSONL',
        )
