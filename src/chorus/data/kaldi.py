"""Kaldi's data folders: wav.scp, text, and where there: segments, utt2spk, utt2lang. Commands in them are never run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from chorus.data.audio import info
from chorus.data.manifest import Row
from chorus.errors import DataError
from chorus.files import expanded, present, read_lines, shown

TO_THE_END = -1.0  # as extract-segments takes it
COMMAND = "wav.scp holds a command, which is never run (run it once, and name the file that it writes)"
ARCHIVE = "wav.scp points into an archive (write its recordings out with wav-copy)"
CHANNEL = "segments names a channel (write each channel to a file of its own)"
Skip = Callable[[str, str], None]  # a reason, and the utterance


def kaldi_rows(folder: Path, skip: Skip) -> list[Row]:
    """The utterances of a folder that have a recording and a text; `DataError` where a name stands twice."""
    wavs, texts = _map(folder / "wav.scp"), _map(folder / "text")
    speakers, languages = _map(folder / "utt2spk"), _map(folder / "utt2lang")
    segments = _map(folder / "segments")
    if not wavs:
        raise DataError(f"{folder}/wav.scp: empty", "name a Kaldi data folder")
    rows = []
    for name, value in (segments or {name: name for name in wavs}).items():
        recording, *times = value.split()
        reason = _unusable(wavs.get(recording, ""), folder) or ("" if texts.get(name) else "no transcript in text")
        cut = _times(times, folder, wavs.get(recording, "")) if not reason else ""
        if isinstance(cut, str):
            skip(reason or cut, name)
            continue
        start, end = cut
        rows.append(
            Row(wavs[recording], texts[name], languages.get(name, ""), speakers.get(name, ""), start=start, end=end,
                root=folder)
        )  # fmt: skip
    for name in texts.keys() - (segments or wavs).keys():
        skip("a transcript without a recording", name)
    return rows


def _unusable(source: str, folder: Path) -> str:
    """Why an entry of wav.scp names no file; empty where it may."""
    if not source:
        return "no entry in wav.scp"
    if source.endswith("|") or source.startswith("|"):  # sph2pipe, sox and the like
        return COMMAND
    return ARCHIVE if re.search(r":\d+$", source) and not present(folder / expanded(source)) else ""


def _times(times: list[str], folder: Path, source: str) -> tuple[float | None, float | None] | str:
    """Where a segment begins and ends, or what is wrong with it."""
    if not times:
        return None, None
    if len(times) > 2:
        return CHANNEL
    try:
        start, end = (float(time) for time in times)
    except ValueError:
        return "times in segments are no numbers"
    if end == TO_THE_END:
        return start, _length_s(folder / expanded(source))
    # not less than: NaN is neither
    return (start, end) if 0 <= start < end < float("inf") else "a segment ends before it begins"


@cache
def _length_s(path: Path) -> float | None:
    """Seconds of a recording; None where it cannot be read, which `chorus data check` tells of."""
    try:
        return info(path).duration_s
    except DataError:
        return None


def _map(path: Path) -> dict[str, str]:
    """The names of a file and what stands behind each."""
    found: dict[str, str] = {}
    for number, line in read_lines(path, raises=DataError, what="Kaldi file") if present(path) else ():
        # Kaldi's own separators: an ideographic space is a part of a text
        name, *rest = re.split("[ \t]+", line.strip(" \t\r\n"), maxsplit=1)
        if name in found:
            raise DataError(f"{shown(path)}: line {number:,}: {shown(name)} stands twice", "take one of them out")
        if name:
            found[name] = rest[0] if rest else ""
    return found
