"""L4: what an export writes in its runtime beside what its source writes in transformers, with and without timestamps.

Both decode greedily, each by its runtime's own rules of what is never written; nothing falls back, nothing is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from chorus.errors import some
from chorus.evaluate.bootstrap import Answered, paired_bootstrap
from chorus.tasks.loops import is_loop
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import ERROR_RATE, Answer, Scored
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.verify.verdict import Verdict, fails, flagged, holds, judged, skipped

if TYPE_CHECKING:
    from chorus.tasks.protocol import Task

Heard = Sequence[Hypothesis | str]  # of each sound, or why nothing was
MODES = {False: "without timestamps", True: "with timestamps"}
SILENCE_S = 5.0
NOT_MADE = "no decode was made of which it could be told"
BEFORE, BEHIND = 16, 24  # letters of a text that are shown round a difference


@dataclass(frozen=True)
class Bound:
    """What is asked of transcripts: an exact match, or at most so many points of error rate more than the source."""

    exact: bool
    max_increase: float
    normaliser: str
    otherwise: str = ""  # why the runtime may hear another text of the same weights


def transcripts(sounds: Sequence[Sound], source: Heard, export: Heard, where: str, bound: Bound) -> Iterator[Verdict]:
    """One mode of one runtime (`where` names both): failed decodes, the same texts, the rate's difference, loops."""
    failed = [f"{sound.row}: {one}" for sound, one in zip(sounds, export, strict=True) if isinstance(one, str)]
    if failed:
        yield fails(4, f"decodes {where}", f"{len(failed)} of {len(sounds)} failed: {some(failed, 1)}")
    unheard = [f"{sound.row}: {one}" for sound, one in zip(sounds, source, strict=True) if isinstance(one, str)]
    if unheard:
        yield flagged(4, f"the source's decodes {where}", f"{len(unheard)} failed: {some(unheard, 1)}")
    # a decode that failed wrote no text: of an empty one nothing differs, and nothing goes round
    made = [(sound, a.text, b.text) for sound, a, b in zip(sounds, source, export, strict=True)
            if not isinstance(a, str) and not isinstance(b, str)]  # fmt: skip
    if not made:
        checks = ["transcripts", *(["error rate"] if any(sound.row.text for sound in sounds) else []), "no loops"]
        yield from (skipped(4, f"{check} {where}", NOT_MADE) for check in checks)
        return
    heard = [sound for sound, _, _ in made]
    theirs, mine = [a for _, a, _ in made], [b for _, _, b in made]
    yield _texts(heard, theirs, mine, where, bound)
    if any(sound.row.text for sound in heard):
        yield _rates(heard, theirs, mine, where, bound)
    yield _loops(heard, theirs, mine, where)


def _texts(sounds: Sequence[Sound], theirs: Sequence[str], mine: Sequence[str], where: str, bound: Bound) -> Verdict:
    what, other = (
        f"transcripts {where}",
        [i for i, pair in enumerate(zip(theirs, mine, strict=True)) if len({*pair}) > 1],
    )
    alike = len(sounds) - len(other)
    same = f"{alike} of {len(sounds)} transcripts are the source's, letter for letter"
    told = f"{same}; {_shown(sounds[other[0]], theirs[other[0]], mine[other[0]])}" if other else same
    if bound.otherwise and other:
        return flagged(4, what, f"{told}; {bound.otherwise}", same=alike)
    if bound.exact:
        return judged(4, what, told if other else "", same, same=alike)
    return holds(4, what, told, same=alike)


def _loops(sounds: Sequence[Sound], theirs: Sequence[str], mine: Sequence[str], where: str) -> Verdict:
    # with four rounds a reader takes it for a loop; a speaker may have said it, and then the source writes it too
    what = f"no loops {where}"
    loops = [str(s.row) for s, a, b in zip(sounds, theirs, mine, strict=True) if is_loop(b) and not is_loop(a)]
    both = [str(s.row) for s, a, b in zip(sounds, theirs, mine, strict=True) if is_loop(b) and is_loop(a)]
    if loops:
        return fails(4, what, f"{len(loops)} go round where the source does not: {some(loops)}")
    if both:
        return flagged(4, what, f"{len(both)} go round, as the source's do: {some(both)}")
    return holds(4, what, f"{len(sounds)} transcripts")


def times(sounds: Sequence[Sound], export: Heard, where: str) -> Verdict:
    """Whether segments follow one another: a model that guesses its timestamps writes them in any order."""
    what, turned, short, count = f"times {where}", [], 0, 0
    if export and all(isinstance(one, str) for one in export):
        return skipped(4, what, NOT_MADE)
    for sound, one in zip(sounds, export, strict=True):
        told = [] if isinstance(one, str) else one.segments
        count += len(told)
        # a beginning that was before the one before, or an end before its own beginning
        if any(b.start < a.start for a, b in pairwise(told)) or any(one.end < one.start for one in told):
            turned.append(str(sound.row))
        short += sum(one.end == one.start for one in told)
    if turned:
        return fails(4, what, f"{len(turned)} have segments out of order: {some(turned)}", segments=count)
    if short:
        return flagged(4, what, f"{short} of {count} segments have no length", segments=count)
    return holds(4, what, f"{count} segments, one after the other", segments=count)


def _text(one: Hypothesis | str) -> str:
    return "" if isinstance(one, str) else one.text


def _shown(sound: Sound, theirs: str, mine: str) -> str:
    # round the first letter that differs: a table cuts what is long, and texts are alike for most of their way
    at = next((i for i, (a, b) in enumerate(zip(theirs, mine, strict=False)) if a != b), min(len(theirs), len(mine)))
    return f"of {sound.row} it writes {_around(mine, at)!r}, the source {_around(theirs, at)!r}"


def _around(text: str, at: int) -> str:
    first, last = max(0, at - BEFORE), at + BEHIND
    # three dots in a text's place would be longer than a few letters of it
    first, last = first if first > 3 else 0, last if last < len(text) - 3 else len(text)
    return f"{'...' if first else ''}{text[first:last]}{'...' if last < len(text) else ''}"


def _rates(sounds: Sequence[Sound], theirs: Sequence[str], mine: Sequence[str], where: str, bound: Bound) -> Verdict:
    """The difference of error rates with its interval: too large where it is larger than allowed, and surely one."""
    task = TASKS.get("asr")
    kept = [i for i, sound in enumerate(sounds) if sound.row.text]
    first, second = (_scored(task, [sounds[i] for i in kept], [t[i] for i in kept], bound) for t in (mine, theirs))
    rates = [float(ERROR_RATE.values(ERROR_RATE.statistics(one).sum(0, keepdims=True))[0]) for one in (first, second)]
    points = rates[0] - rates[1]
    pair = Answered(ERROR_RATE.statistics(first), ERROR_RATE.statistics(second), task.clusters(first)[0])
    seen = paired_bootstrap([pair])
    inside = "" if math.isnan(seen.low) else f" [{seen.low:+.2f}, {seen.high:+.2f}]"
    told = (
        f"{rates[0]:.2f} %, the source {rates[1]:.2f} %: {points:+.2f} points{inside} (normaliser {bound.normaliser}, "
        f"{len(kept)} recordings)"
    )
    facts = {"export": rates[0], "source": rates[1], "points": points, "recordings": len(kept)}
    facts |= {} if math.isnan(seen.low) else {"low": seen.low, "high": seen.high}
    what = f"error rate {where}"
    # of few recordings a word is a point: a difference that may be none fails nobody
    if points > bound.max_increase and seen.low > 0:
        return fails(4, what, f"{told}, of at most {bound.max_increase:+g}", **facts)
    if points > bound.max_increase:
        return flagged(4, what, f"{told}: more than {bound.max_increase:+g}, though not surely", **facts)
    return holds(4, what, told, **facts)


def _scored(task: Task, sounds: Sequence[Sound], texts: Sequence[str], bound: Bound) -> Sequence[Scored]:
    rows: list[Answer] = [
        {"name": f"{i} {sound.row}", "condition": "clean", "reference": sound.row.text, "hypothesis": text,
         "language": sound.row.language, "speaker": sound.row.speaker}
        for i, (sound, text) in enumerate(zip(sounds, texts, strict=True))
    ]  # fmt: skip
    return task.score(rows, bound.normaliser, None)


def silence(source: Hypothesis | str, export: Hypothesis | str, where: str) -> Verdict:
    """Of silence nothing should be written."""
    what, theirs, mine = f"silence {where}", _text(source), _text(export)
    if isinstance(export, str):
        return fails(4, what, f"the decode failed: {export}")
    if not mine:
        return holds(4, what, "nothing is written")
    told = f"the source {theirs!r}" if theirs else "the source nothing"
    return flagged(4, what, f"it writes {mine!r} of {SILENCE_S:g} s of silence, {told}", export=mine, source=theirs)
