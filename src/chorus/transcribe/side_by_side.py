"""What several systems heard in the same recordings, one below the other, the differences marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.models.languages import unspaced
from chorus.tables import Table
from chorus.tasks.counts import Alignment, Unit, align, units
from chorus.transcribe.listening import Transcription

NOTES = (
    "[-so-] the first model heard, and this one did not; {+so+} this one heard, and the first did not",
    "case and punctuation are not compared",
)


def side_by_side(heard: Mapping[str, Sequence[Transcription]]) -> Table:
    """A row a recording and system; the first system's text as it is, the others' marked against it, words counted."""
    (first, base), *others = heard.items()
    rows: list[list[str]] = []
    for i, one in enumerate(base):
        rows.append([one.name, first, "", _told(one)])
        for label, theirs in others:
            other = theirs[i]
            if one.failed or other.failed:
                rows.append([one.name, label, "-", _told(other)])
                continue
            # of a language without spaces a sentence would be one word
            unit: Unit = "characters" if unspaced(other.language or one.language) else "words"
            text, count = marked(one.text, other.text, unit)
            rows.append([one.name, label, str(count), text])
    return Table("what each model heard", ["recording", "model", "differences", "text"], rows, NOTES)


def _told(one: Transcription) -> str:
    return f"failed: {one.failed}" if one.failed else one.text


def marked(first: str, second: str, unit: Unit = "words") -> tuple[str, int]:
    """The second text with its differences from the first, and how many there are.

    >>> marked("We have four cards.", "we had four new cards")
    ('we [-have-]{+had+} four {+new+} cards', 2)
    """
    one, other = _parts(first, unit), _parts(second, unit)
    found = _aligned(one, other, unit)
    glue = " " if unit == "words" else ""
    parts: list[str] = []
    count = 0
    for chunk in found.chunks:
        gone, new = one[chunk.reference_start : chunk.reference_end], other[chunk.start : chunk.end]
        if chunk.kind == "equal":
            parts.append(glue.join(new))
            continue
        count += max(len(gone), len(new))
        lost, added = (f"[-{glue.join(gone)}-]" if gone else ""), (f"{{+{glue.join(new)}+}}" if new else "")
        parts.append(lost + added)
    return glue.join(parts), count


def _parts(text: str, unit: Unit) -> list[str]:
    return list(units(text, unit))


def _aligned(first: Sequence[str], second: Sequence[str], unit: Unit) -> Alignment:
    """By what is heard of a word; where that is nothing, as of a mark by itself, by the mark."""
    glue = " " if unit == "words" else ""
    return align([glue.join(map(_heard, first))], [glue.join(map(_heard, second))], unit)[0]


def _heard(word: str) -> str:
    letters = "".join(letter for letter in word.casefold() if letter.isalnum())
    return letters or word
