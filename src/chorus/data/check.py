"""What would spoil a training, found before it: in the audio, in texts and answers, between the splits.

Files are decoded one at a time (a few at once on several cores), in blocks, so that a corpus of any size takes the
memory of a few utterances. Every finding names its rows; errors spoil a training, warnings are worth a look.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from chorus.data.audio import LONGEST_S, blocks, mono, opened, span
from chorus.data.choices import TASK, by_tasks
from chorus.data.manifest import Row
from chorus.data.parallel import in_order
from chorus.data.utterance import BETWEEN_S, second_of
from chorus.errors import DataError
from chorus.files import present
from chorus.identity import digest
from chorus.lazy import lazy
from chorus.models.limits import Limits
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.runtime import threads

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    from chorus.data.audio import Audio
else:
    np = lazy("numpy")

FULL_SCALE = 32_767
CLIPPED_RUN, CLIPPED_SHARE = 3, 0.001  # so many full samples in a row; so much of the samples
SILENT_DBFS = -60.0
PEAK_DB = 20.0  # how far peaks of a sound stand above its mean, about
SHORTEST_S = 0.1
OUTLIER, LEAST_SPREAD = 4.0, 0.25  # robust deviations on the logarithm; a spread below which nothing stands out
LONGEST_SHOWN = 40  # characters of a text in a message
FASTEST = 40.0  # characters a second; nobody speaks so fast
ERRORS = (
    "missing audio",
    "unreadable audio",
    "empty audio",
    "silent audio",
    "not finite",
    "empty text",
    "unknown task",
    "cannot be answered",
    "special tokens in text",
    "unwritable text",
    "text too long",
    "audio too long",
    "unknown language",
    "same audio in two splits",
)
WARNINGS = (
    "clipped audio",
    "very short audio",
    "duration differs",
    "duration outlier",
    "speaking rate outlier",
    "duplicate audio",
    "symbols that are not learnt",
    "no language",
    "not the model's language",
    "repeated text",
    "same text in two splits",
    "speaker in two splits",
)


@dataclass
class Measured:
    """One row's audio in numbers."""

    row: Row
    duration_s: float = 0.0
    rate: int = 0
    channels: int = 0
    rms_dbfs: float = -math.inf
    clipped: float = 0.0  # share of samples in runs at full scale
    digest: str = ""
    problem: str = ""  # one of ERRORS
    detail: str = ""
    second: Measured | None = None  # of a pair

    @property
    def whole_s(self) -> float:
        """Seconds that are heard: of a pair both, and the pause between them."""
        return self.duration_s + (BETWEEN_S + self.second.duration_s if self.second else 0.0)

    @property
    def parts(self) -> tuple[Measured, ...]:
        return (self, self.second) if self.second else (self,)


@dataclass
class Finding:
    """One kind of problem and the rows that have it."""

    kind: str
    rows: list[str] = field(default_factory=list)

    @property
    def error(self) -> bool:
        return self.kind in ERRORS


@dataclass
class Report:
    """Everything `chorus data check` prints."""

    rows: int
    hours: float
    findings: list[Finding]
    hours_by: dict[str, dict[str, float]]
    rates: dict[int, int]

    @property
    def errors(self) -> int:
        return sum(len(f.rows) for f in self.findings if f.error)

    @property
    def warnings(self) -> int:
        return sum(len(f.rows) for f in self.findings if not f.error)

    def as_dict(self) -> JsonObject:
        """As JSON tells it."""
        return {
            "rows": self.rows,
            "hours": round(self.hours, 4),
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [{"kind": f.kind, "error": f.error, "rows": f.rows} for f in self.findings],
            "hours_by": self.hours_by,
            "sample_rates": {str(k): v for k, v in sorted(self.rates.items())},
        }


def check(
    rows: Sequence[Row],
    *,
    task: str = "asr",
    limits: Limits | None = None,
    jobs: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Decode every row's audio once, and look at rows, texts and splits together; rows name their task, or have `task`.

    Answers that are labels are looked at as their tasks do, and are no texts: they come again, and in every split.
    """
    found: dict[str, list[str]] = {}

    def add(kind: str, row: Row, detail: str = "") -> None:
        found.setdefault(kind, []).append(f"{row}: {detail}" if detail else str(row))

    measured = []
    for result in in_order(measure, rows, threads(jobs)):
        measured.append(result)
        progress(len(measured), len(rows))
        if result.problem:
            add(result.problem, result.row, result.detail)
    texts, labelled, problems = by_tasks(rows, task)
    for row, kind, detail in problems:
        add(kind, row, detail)
    for row in texts:
        if not row.text.strip():
            add("empty text", row)
    # what has a problem says no more: every silent file would be a duplicate of every other
    good = [m for m in measured if not m.problem]
    _audio_findings(good, limits, add)
    spoken = set(map(id, texts))
    _outliers(good, [m for m in good if id(m.row) in spoken], add)
    _duplicates(good, add)
    _repeated_texts(texts, add)
    _across_splits({"text": texts, "speaker": rows}, add)
    if limits is not None:
        written = [*texts, *labelled]
        for start in range(0, len(written), 1000):  # tokenizers work in batches, memory is bounded
            part = written[start : start + 1000]
            for row, kind, detail in (*limits.problems(part), *limits.notices(part)):
                add(kind, row, detail)
    order = (*ERRORS, *WARNINGS)
    findings = [Finding(kind, found[kind]) for kind in order if kind in found]
    rates: dict[int, int] = {}
    for one in good:
        rates[one.rate] = rates.get(one.rate, 0) + 1
    hours = sum(m.whole_s for m in good) / 3600
    return Report(len(rows), hours, findings, hours_by(good), rates)


def measure(row: Row) -> Measured:
    """Decode one row's audio in blocks; of a pair both, and what is wrong with the second is told as that."""
    result = _measure_one(row)
    try:
        other = None if result.problem else second_of(row)
    except DataError as error:
        result.problem, result.detail = "unreadable audio", error.message.removeprefix(f"{row}: ")
        return result
    if other is not None:
        second = _measure_one(other)
        result.second, result.problem = second, second.problem
        if second.problem:
            result.detail = f"second recording {other}" + (f": {second.detail}" if second.detail else "")
    return result


def _measure_one(row: Row) -> Measured:
    result = Measured(row)
    try:
        with opened(row.audio) as file:
            _measure_file(file, row, result)
    except DataError as error:
        result.problem = "unreadable audio" if present(row.audio) else "missing audio"
        result.detail = "" if result.problem == "missing audio" else error.message.partition(": ")[2]
    return result


def _measure_file(file: soundfile.SoundFile, row: Row, result: Measured) -> None:
    result.rate, result.channels = file.samplerate, file.channels
    first, last = span(file, row.start, row.end)
    if last is not None and last <= first:
        result.problem, result.detail = (
            "empty audio",
            "no samples" if row.start is None else "the cut lies behind the end",
        )
        return
    found, power, loudest, clipped, count = digest(), 0.0, 0.0, 0, 0
    floating = file.subtype in ("FLOAT", "DOUBLE")
    scale = 1.0 if floating else FULL_SCALE
    # in the file's own kind: full scale must be the converter's, not a rounding of it
    for samples in blocks(file, first, last, "float32" if floating else "int16"):
        count += len(samples)
        found.update(samples.tobytes())  # of the samples: the same sound under two containers is found too
        if floating and not np.isfinite(samples).all():
            result.problem = "not finite"
            return
        heard = mono(samples) / np.float32(scale)
        power += float(np.dot(heard, heard))
        peak = max(float(samples.max()), -float(samples.min()))
        loudest = max(loudest, peak)
        if peak >= scale * 0.9999:  # a look without a copy first: most blocks hold no full sample
            clipped += _clipped(samples.astype(np.float32).ravel(), scale)
    if not count:
        result.problem, result.detail = "empty audio", "no samples"
        return
    result.duration_s = count / file.samplerate
    result.rms_dbfs = 10 * math.log10(power / count) if power > 0 else -math.inf
    result.clipped = clipped / (count * file.channels)
    result.digest = found.hexdigest()
    if result.rms_dbfs < SILENT_DBFS:
        level = "digital silence" if result.rms_dbfs == -math.inf else f"{result.rms_dbfs:.0f} dBFS"
        cancelled = result.channels > 1 and 20 * math.log10(max(loudest / scale, 1e-9)) > SILENT_DBFS + PEAK_DB
        result.problem = "silent audio"
        result.detail = f"{level} when its {result.channels} channels are mixed" if cancelled else level


def _clipped(samples: Audio, scale: float) -> int:
    """Samples in runs at full scale: single peaks are loud, runs are cut off."""
    full = np.abs(samples) >= scale * 0.9999
    edges = np.flatnonzero(np.diff(np.concatenate(([False], full, [False])).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= CLIPPED_RUN].sum())


class Add(Protocol):
    """How a finding is noted down."""

    def __call__(self, kind: str, row: Row, detail: str = "") -> None: ...


def _audio_findings(good: Sequence[Measured], limits: Limits | None, add: Add) -> None:
    longest = limits.max_audio_s if limits else None
    for one in good:
        if one.whole_s > LONGEST_S:
            hours = one.whole_s / 3600
            add("audio too long", one.row, f"{hours:.1f} h; at most {LONGEST_S / 3600:g} are read at once")
        elif longest is not None and one.whole_s > longest + 0.05:  # cutters round up
            add("audio too long", one.row, f"{one.whole_s:.1f} s, the model takes {longest:g}")
        clipped, shortest = max(part.clipped for part in one.parts), min(part.duration_s for part in one.parts)
        if clipped > CLIPPED_SHARE:
            add("clipped audio", one.row, f"{100 * clipped:.1f} % of samples")
        if shortest < SHORTEST_S:
            add("very short audio", one.row, f"{shortest:.3f} s")
        told = one.row.length_s
        if told is not None and abs(told - one.duration_s) > max(0.1, 0.02 * one.duration_s):
            add("duration differs", one.row, f"{one.duration_s:.2f} s, the manifest says {told:.2f}")


def _outliers(good: Sequence[Measured], transcribed: Sequence[Measured], add: Add) -> None:
    """Durations, and characters a second within a language, far from the median on a logarithmic scale."""
    spoken = [m for m in transcribed if m.row.text and m.duration_s > 0]
    for pairs in (False, True):  # apart: of two recordings nothing is odd about being twice as long
        some = [m for m in good if m.duration_s > 0 and (m.second is not None) == pairs]
        for one, times in _far(some, lambda m: m.whole_s):
            add("duration outlier", one.row, f"{one.whole_s:.2f} s, {times:.1f} times the median")
    by_language: dict[str, list[Measured]] = {}
    for one in spoken:
        by_language.setdefault(one.row.language, []).append(one)
    flagged = set()
    for members in by_language.values():
        for one, times in _far(members, _speaking_rate):
            flagged.add(id(one))
            add(
                "speaking rate outlier",
                one.row,
                f"{_speaking_rate(one):.1f} characters/s, {times:.2g} times the median",
            )
    for one in spoken:
        if _speaking_rate(one) > FASTEST and id(one) not in flagged:
            add("speaking rate outlier", one.row, f"{_speaking_rate(one):.1f} characters/s")


def _speaking_rate(one: Measured) -> float:
    return len(one.row.text) / one.duration_s


def _far(members: Sequence[Measured], value: Callable[[Measured], float]) -> list[tuple[Measured, float]]:
    """Those far from the median, and how many times it they are; groups under ten tell nothing."""
    if len(members) < 10:
        return []
    logs = np.log([value(m) for m in members])  # durations and rates are skewed; their logarithms are not
    middle = float(np.median(logs))
    # 1.4826 makes the median deviation that of a normal distribution; outliers do not widen it as they do the standard
    # one
    spread = max(LEAST_SPREAD, 1.4826 * float(np.median(np.abs(logs - middle))))
    far = np.flatnonzero(np.abs(logs - middle) > OUTLIER * spread)
    return [(members[int(i)], math.exp(float(logs[i]) - middle)) for i in far]


def _duplicates(good: Sequence[Measured], add: Add) -> None:
    """Recordings in two splits, whatever is asked there; in one, rows of a task with the same recordings."""
    heard: dict[str, Row] = {}
    first: dict[tuple[str, ...], Row] = {}
    for one in good:
        row = one.row
        known = [heard.setdefault(part.digest, row) for part in one.parts]
        seen = next((other for other in known if other.split != row.split and other.split and row.split), None)
        splits = seen is not None
        seen = seen or first.setdefault((row.get(TASK), *(part.digest for part in one.parts)), row)
        if seen is row:
            continue
        if (seen.audio, seen.start, seen.end) == (row.audio, row.start, row.end):
            lines = [f"{r.line} ({r.split})" if splits else str(r.line) for r in (seen, row)]
            told = f"lines {' and '.join(lines)} name the same file"
        else:
            told = f"{row.split}; {seen} is {seen.split}" if splits else f"the same as {seen}"
        add("same audio in two splits" if splits else "duplicate audio", row, told)


def _repeated_texts(rows: Sequence[Row], add: Add) -> None:
    """Texts that stand several times in one split, each told once with its count."""
    first: dict[tuple[str, str], Row] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.text:
            first.setdefault((row.text, row.split), row)
            counts[row.text, row.split] += 1
    for (text, split), count in counts.most_common():
        if count > 1:
            where = f" in {split}" if split else ""
            add("repeated text", first[text, split], f"{_short(text)!r} {count} times{where}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def _across_splits(rows_of: Mapping[str, Sequence[Row]], add: Add) -> None:
    """Texts and speakers that stand in train and in a held-out split: counted once for each text or speaker."""
    for column, kind in (("text", "same text in two splits"), ("speaker", "speaker in two splits")):
        splits: dict[str, set[str]] = {}
        example: dict[str, Row] = {}
        for row in rows_of[column]:
            value = row.get(column)
            if value and row.split:
                splits.setdefault(value, set()).add(row.split)
                example.setdefault(value, row)
        for value, where in splits.items():
            if "train" in where and len(where) > 1:  # dev and test may share speakers: neither is learnt from
                add(kind, example[value], f"{_short(value)!r} in {', '.join(sorted(where))}")


def hours_by(good: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Hours by language, speaker, domain and split, for those that the manifest names."""
    table: dict[str, dict[str, float]] = {}
    for column in ("language", "domain", "speaker", "split"):
        hours: dict[str, float] = {}
        for one in good:
            value = one.row.get(column)
            if value:
                hours[value] = hours.get(value, 0.0) + one.whole_s / 3600
        if hours:
            table[column] = {k: round(v, 4) for k, v in sorted(hours.items(), key=lambda item: -item[1])}
    return table
