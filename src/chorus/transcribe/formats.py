"""Transcripts as text, SRT, WebVTT, TSV and JSON: all but the last as openai-whisper writes them, to the letter.

SRT has hours always and a comma before the milliseconds, WebVTT hours where there are any and a point; TSV has whole
milliseconds; text and TSV have a line a segment. With words, a subtitle's lines are made of them (`Subtitles`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chorus.models.times import Segment, Word
from chorus.transcribe.listening import Transcription

ANY_WIDTH = 1000  # letters of a line, and words, where no limit is given
PAUSE_S = 3.0  # after which a subtitle ends, where lines are filled across segments


@dataclass(frozen=True)
class Subtitles:
    """How words fill subtitles: the longest line in letters, lines of a subtitle, words of a line.

    With a width and a number of lines, lines are filled across segments; else each segment begins a subtitle.
    `highlight` repeats a subtitle for each of its words, which is underlined then.
    """

    line_width: int | None = None
    lines: int | None = None
    line_words: int | None = None
    highlight: bool = False


Cue = tuple[float, float, str]  # a subtitle: from, to, what it shows


def as_txt(heard: Transcription, layout: Subtitles) -> str:
    """A line a segment."""
    return "".join(f"{_line(segment.text)}\n" for segment in heard.segments)


def as_srt(heard: Transcription, layout: Subtitles) -> str:
    """SubRip: numbered subtitles."""
    return "".join(
        f"{number}\n{clock(start, hours=True, mark=',')} --> {clock(end, hours=True, mark=',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(cues(heard, layout), 1)
    )


def as_vtt(heard: Transcription, layout: Subtitles) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(start)} --> {clock(end)}\n{text}\n\n" for start, end, text in cues(heard, layout)
    )


def as_tsv(heard: Transcription, layout: Subtitles) -> str:
    """Whole milliseconds, and the text, of each segment."""
    lines = [
        f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{_line(s.text).replace(chr(9), ' ')}\n"
        for s in heard.segments
    ]
    return "".join(["start\tend\ttext\n", *lines])


def as_json(heard: Transcription, layout: Subtitles) -> str:
    """One object, with openai-whisper's keys."""
    return json.dumps(heard.as_json(), indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Transcription, Subtitles], str]] = {
    "txt": as_txt, "srt": as_srt, "vtt": as_vtt, "tsv": as_tsv, "json": as_json,
}  # fmt: skip
TIMED = ("srt", "vtt", "tsv")  # what is no use without times


def clock(seconds: float, *, hours: bool = False, mark: str = ".") -> str:
    """A time as subtitles have it.

    >>> clock(61.5), clock(3661.5, mark=","), clock(1.0004, hours=True)
    ('01:01.500', '01:01:01,500', '00:00:01.000')
    """
    left = round(1000 * seconds)  # once: rounded apart, 59.9996 s would be 59 s and 1000 ms
    hour, left = divmod(left, 3_600_000)
    minute, left = divmod(left, 60_000)
    second, milli = divmod(left, 1000)
    return f"{f'{hour:02d}:' if hours or hour else ''}{minute:02d}:{second:02d}{mark}{milli:03d}"


def _line(text: str) -> str:
    """A text on one line: what a model broke in two would end a subtitle, or a row."""
    text = text.strip()
    return " ".join(text.split()) if re.search(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text) else text


def cues(heard: Transcription, layout: Subtitles) -> Iterator[Cue]:
    """The subtitles of a transcript: one a segment, or made of its words."""
    if not any(segment.words for segment in heard.segments):
        for one in heard.segments:
            yield one.start, one.end, _line(one.text).replace("-->", "->")
        return
    for words in _filled(heard.segments, layout):
        start, end = words[0].start, words[-1].end
        texts = [word.text.replace("-->", "->") for word in words]
        if layout.highlight:
            yield from _highlighted(words, texts)
        else:
            yield start, end, "".join(texts)


def _filled(segments: tuple[Segment, ...], layout: Subtitles) -> Iterator[list[Word]]:
    """Words in subtitles, a line break before those that begin a line."""
    width = layout.line_width or ANY_WIDTH
    by_segment = layout.lines is None or layout.line_width is None
    shown: list[Word] = []
    letters, lines, last = 0, 1, next((w.start for s in segments for w in s.words), 0.0)
    for word, first in _words(segments, layout.line_words or ANY_WIDTH):
        pause = not by_segment and word.start - last > PAUSE_S
        border = by_segment and first and bool(shown)
        # a line begins without the space that is before its first word
        text = word.text
        if letters > 0 and letters + len(text) <= width and not pause and not border:
            letters += len(text)
        else:
            text = text.strip()
            full = layout.lines is not None and bool(shown) and (pause or lines >= layout.lines)
            letters_before, letters = letters, len(text)
            if full or border:
                yield shown
                shown, lines = [], 1
            elif letters_before > 0:
                lines += 1
                text = f"\n{text}"
        shown.append(word._replace(text=text))
        last = word.start
    if shown:
        yield shown


def _words(segments: tuple[Segment, ...], together: int) -> Iterator[tuple[Word, bool]]:
    """Every word, and whether it is the first of a segment, or of so many words of one."""
    for segment in segments:
        # a segment that the runtime has no words of must not be missing
        words = segment.words or (Word(segment.start, segment.end, f" {_line(segment.text)}"),)
        for i, word in enumerate(words):
            yield word, i % together == 0


def _highlighted(words: list[Word], texts: list[str]) -> Iterator[Cue]:
    last = words[0].start
    for i, word in enumerate(words):
        if clock(last) != clock(word.start):
            yield last, word.start, "".join(texts)
        marked = [re.sub(r"^(\s*)(.*)$", r"\1<u>\2</u>", text) if j == i else text for j, text in enumerate(texts)]
        yield word.start, word.end, "".join(marked)
        last = word.end
