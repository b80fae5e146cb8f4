"""Which transcript belongs to which recording: five rules, tried in order, each match and each skip counted.

table         one file with names and texts (CSV, TSV, or lines of "name text" or "name|text")
kaldi         a folder with wav.scp and text (segments, utt2spk, utt2lang where there)
librispeech   SPEAKER-CHAPTER.trans.txt beside the recordings
sidecar       NAME.txt (or .lab, .normalized.txt) beside NAME.wav
token         a token of the file's name (f01) that names one of several texts (f01.txt)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from chorus.data.audio import SUFFIXES
from chorus.data.kaldi import kaldi_rows
from chorus.data.manifest import Row, read_manifest
from chorus.errors import DataError, UsageError
from chorus.files import read_lines, shown

Rule = Literal["auto", "table", "kaldi", "librispeech", "sidecar", "token"]
# .lab: HTK and the Montreal Forced Aligner; .normalized.txt and .original.txt: LibriTTS
SIDECARS = (".txt", ".lab", ".normalized.txt", ".original.txt")


@dataclass
class Pairing:
    """What was found: rows, how many each rule matched, and what was skipped and why."""

    rows: list[Row] = field(default_factory=list)
    matched: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> files
    classes: Counter[str] = field(default_factory=Counter)  # of the token rule

    def skip(self, reason: str, name: str) -> None:
        self.skipped.setdefault(reason, []).append(name)


def pair(
    audio_dir: Path,
    *,
    rule: Rule = "auto",
    table: Path | None = None,
    texts_dir: Path | None = None,
    extensions: Sequence[str] = SUFFIXES,
    language: str = "",
    speaker_from: Literal["none", "folder", "prefix"] = "none",
) -> Pairing:
    """Pair the recordings below a folder with transcripts, by one rule or by the first that fits each.

    `table` and `texts_dir` feed the rules of these names. Raises `DataError` where there is no audio at all.
    """
    if not audio_dir.is_dir():
        raise DataError(f"{audio_dir}: no such folder", "name the folder of the recordings")
    if rule == "table" and table is None:
        raise UsageError("the rule table needs --table FILE")
    if rule == "token" and texts_dir is None:
        raise UsageError("the rule token needs --texts DIR")
    found = Pairing()
    wanted = {e.lower() if e.startswith(".") else f".{e.lower()}" for e in extensions}
    if rule in ("auto", "kaldi") and (audio_dir / "wav.scp").exists():
        found.rows = kaldi_rows(audio_dir, found.skip)
        if found.rows:
            found.matched["kaldi"] = len(found.rows)
    elif rule == "kaldi":
        raise DataError(f"{audio_dir}: no wav.scp", "name a Kaldi data folder, or another --rule")
    else:
        # sorted: a file system lists in an order of its own, and the manifest's rows would move
        files = sorted(p for p in audio_dir.rglob("*") if p.suffix.lower() in wanted and p.is_file())
        if not files:
            raise DataError(
                f"{audio_dir}: no audio files ({', '.join(sorted(wanted))})", "check the folder, or give --extensions"
            )
        texts = _Texts(rule, table, texts_dir, audio_dir)
        for path in files:
            _pair_one(path, audio_dir, texts, found, speaker_from)
    found.rows = [replace(row, language=row.language or language) for row in found.rows]  # what a row says goes first
    return found


def _pair_one(path: Path, audio_dir: Path, texts: _Texts, found: Pairing, speaker_from: str) -> None:
    name = str(path.relative_to(audio_dir))
    match = texts.find(path)
    if isinstance(match, str):
        found.skip(match, name)
        return
    text, how, extra = match
    if not text.strip():
        found.skip("the transcript is empty", name)
        return
    found.matched[how] += 1
    if how == "token":
        found.classes[str(extra["class"])] += 1
    speaker = extra.pop("speaker", "")
    if not speaker and speaker_from == "folder" and path.parent != audio_dir:
        speaker = path.relative_to(audio_dir).parts[0]
    if not speaker and speaker_from == "prefix":
        speaker = re.split(r"[-_. ]", path.stem)[0]
    language, domain = extra.pop("language", ""), extra.pop("domain", "")
    found.rows.append(
        Row(
            name, " ".join(text.split()), language=language, speaker=speaker, domain=domain, extra=extra, root=audio_dir
        )
    )


Match = tuple[str, str, dict[str, str]]  # text, rule, other columns


class _Texts:
    """The transcripts of a folder, by every rule that is asked for."""

    def __init__(self, rule: Rule, table: Path | None, texts_dir: Path | None, audio_dir: Path) -> None:
        self.rule = rule
        self.table = read_table(table) if table else {}
        self.tokens = read_token_texts(texts_dir) if texts_dir else {}
        self._trans: dict[Path, dict[str, str]] = {}
        self.audio_dir = audio_dir

    def find(self, path: Path) -> Match | str:
        """The transcript of a recording, or why there is none."""
        reasons = []
        for name, look in (
            ("table", self._in_table),
            ("librispeech", self._librispeech),
            ("sidecar", self._sidecar),
            ("token", self._token),
        ):
            if self.rule in ("auto", name):
                match = look(path)
                if isinstance(match, tuple):
                    return match
                reasons.append(match)
        told = [r for r in reasons if r]
        return told[-1] if told else "no transcript by any rule"  # the last rule that had anything to look in

    def _in_table(self, path: Path) -> Match | str:
        if not self.table:
            return ""
        # the most telling first: names repeat between folders
        keys = (str(path.relative_to(self.audio_dir)), path.name, path.stem)
        for key in keys:
            if key in self.table:
                record = dict(self.table[key])
                return record.pop("text"), "table", record
        return "not in the table"

    def _librispeech(self, path: Path) -> Match | str:
        folder = path.parent
        if folder not in self._trans:
            self._trans[folder] = {}
            for file in sorted(folder.glob("*.trans.txt")):
                self._trans[folder] |= {name: parts[0] for name, *parts in _named(file) if parts}
        texts = self._trans[folder]
        if path.stem in texts:
            return texts[path.stem], "librispeech", {"speaker": path.stem.split("-")[0]}
        return "not in the folder's .trans.txt" if texts else ""

    def _sidecar(self, path: Path) -> Match | str:
        for suffix in SIDECARS:
            beside = path.with_name(path.stem + suffix)
            if beside.is_file():
                try:
                    return "".join(_lines(beside)), "sidecar", {}
                except DataError as error:
                    return f"the transcript cannot be read ({error.message.removeprefix(f'{beside}: ')})"
        return "no transcript beside it" if self.rule == "sidecar" else ""

    def _token(self, path: Path) -> Match | str:
        """One token of the file's name, in any case: at the end of it, or behind what is no letter and no digit."""
        if not self.tokens:
            return ""
        # f1 must not be found in f10, nor in the middle of a word
        stem = path.stem.lower()
        hits = [t for t in self.tokens if re.search(rf"(?<![a-z0-9]){re.escape(t)}(?![0-9])|{re.escape(t)}$", stem)]
        if len(hits) > 1:
            return f"several tokens in the name ({', '.join(hits)})"
        if not hits:
            return "no token in the name"
        return self.tokens[hits[0]], "token", {"class": hits[0]}


def _lines(path: Path) -> list[str]:
    """A transcript file's lines, ends included; `DataError` names it where it is no UTF-8 text."""
    return [line for _, line in read_lines(path, raises=DataError, what="transcript")]


def _named(path: Path) -> Iterator[list[str]]:
    """The fields of lines of `name text` or `name|text`; `DataError` where a name or a mark is too many."""
    seen: set[str] = set()
    strokes = False
    for number, line in enumerate(_lines(path), 1):
        line = line.strip(" \t\r\n")
        if not line:
            continue
        strokes = strokes or (not seen and "|" in line)
        # LJSpeech's quotation marks are text, not csv's; its third column is the normalised text
        parts = line.split("|") if strokes else re.split("[ \t]+", line, maxsplit=1)
        if strokes and len(parts) not in (2, 3):
            raise DataError(
                f"{shown(path)}: line {number:,} has {len(parts)} fields", "write NAME|TEXT, or NAME|TEXT|TEXT"
            )
        if parts[0] in seen:
            raise DataError(f"{shown(path)}: line {number:,}: {shown(parts[0])} stands twice", "take one of them out")
        seen.add(parts[0])
        yield [part.strip() for part in parts]


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Texts by file name, stem or path, from CSV, TSV, or lines of `name text` or `name|text`."""
    first = next(iter(_lines(path)), "")
    # LJSpeech calls its lines of name|text|text metadata.csv
    if path.suffix in (".csv", ".tsv") and not ("|" in first and not re.search("[,\t]", first.partition("|")[0])):
        return _by_name(path)
    table = {name: {"text": texts[0]} for name, *texts in _named(path) if texts}
    if not table:
        raise DataError(f"{path}: no line of the form NAME TEXT", "give a table of names and texts")
    return table


def _by_name(path: Path) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for row in read_manifest(path).rows:
        if row.path in table:
            raise DataError(
                f"{shown(path)}: line {row.line}: {shown(row.path)} stands twice",
                "a table names a recording once; one of cuts is a manifest already",
            )
        table[row.path] = {"text": row.text, "language": row.language, "speaker": row.speaker, "domain": row.domain}
    return table


def read_token_texts(folder: Path) -> dict[str, str]:
    """The texts that tokens stand for: f01.txt holds what every recording with f01 in its name says."""
    texts = {p.stem.lower(): "".join(_lines(p)).strip() for p in sorted(folder.glob("*.txt"))}
    if not texts:
        raise DataError(f"{folder}: no .txt files", "name the folder of the texts")
    empty = [name for name, text in texts.items() if not text]
    if empty:
        raise DataError(f"{folder}: empty text: {', '.join(f'{n}.txt' for n in empty)}", "write the text into it")
    return texts
