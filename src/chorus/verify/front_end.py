"""L2: what comes before and after the model: the spectrum of the sound, and the tokens of texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chorus.errors import some
from chorus.verify.protocol import FrontEndOf, Hearer, Subject
from chorus.verify.verdict import Verdict, flagged, judged

if TYPE_CHECKING:
    from chorus.verify.original import Original
    from chorus.verify.protocol import Floats

FILTERS = 1e-6  # of values below 0.05: openai-whisper's own table was seen 4e-9 off what is computed
# of log-mel, whose range is about 2: whisper.cpp's transform in float32 was seen 1.2e-5 off, openai-whisper's 1e-7;
# another window, scale or set of filters is off by hundredths
SPECTRUM = 1e-3
EDGE = 3  # frames at the end of the sound, where the two fill up differently
# of many scripts and of what tokenizers stumble over: numbers, signs, spaces, composed and decomposed letters, emoji
TEXTS = (
    "And so, my fellow Americans, ask not what your country can do for you.",
    "Er kam um 17:45 Uhr in Zürich an.",
    "¿Cuántos años tienes? Doce, señor.",
    "L'été, ça n'a pas duré : voilà tout.",
    "Não sei, amanhã à tarde talvez.",
    "Всё счастливые семьи похожи друг на друга.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι.",
    "من جدّ وجد ومن زرع حصد",
    "כל בני האדם נולדו בני חורין",
    "सभी मनुष्य जन्म से स्वतंत्र हैं।",
    "সব মানুষ স্বাধীনভাবে জন্মগ্রহণ করে।",
    "எல்லா மனிதரும் சுதந்திரமாக",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由である。",
    "모든 인간은 태어날 때부터 자유롭다.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ",
    "Tất cả mọi người sinh ra đều tự do.",
    "Bütün insanlar hür doğarlar: ığüşöç.",
    "zażółć gęślą jaźń",
    "e\u0301te\u0301 decomposed",
    "3.14159 % of £1,000,000 = ?",
    "  two  spaces, a\ttab",
    "👩\u200d👩\u200d👧 and 🎤",
    "naïve café — “quoted”…",
    "seven",
)


def front_end(subject: Subject, original: Original) -> Iterator[Verdict]:
    """The export's own parts beside the source's extractor and tokenizer."""
    bins, takes = original.bins, original.config_bins
    told = f"the feature extractor makes {bins} mel bins, the model takes {takes}"
    yield judged(2, "mel bins of extractor and model", told if bins != takes else "", f"{bins}")
    if subject.filters is not None:
        yield _filters(subject, original)
    if subject.tokens is not None:
        yield _texts(subject, original)


def _filters(subject: Subject, original: Original) -> Verdict:
    what, mine, theirs = "mel filters of the extractor", subject.filters, original.filters
    assert mine is not None
    # before the subtraction, which numpy would broadcast or refuse in its own words
    if mine.shape != theirs.shape:
        return judged(2, what, f"{mine.shape[0]} by {mine.shape[1]}, the extractor's {theirs.shape[0]} by "
                               f"{theirs.shape[1]}")  # fmt: skip
    worst = float(np.abs(mine - theirs).max())
    problem = "" if worst <= FILTERS else f"off by {worst:.2g}"
    return judged(2, what, problem, f"at most {worst:.1g} off", worst=worst)


def _texts(subject: Subject, original: Original) -> Verdict:
    """What the source's tokenizer makes of a text must be that text by the export's table."""
    table, wrong = subject.tokens, []
    assert table is not None
    for text in TEXTS:
        ids = original.ids(text)
        if any(i >= len(table) for i in ids) or b"".join(table[i] for i in ids) != text.encode():
            wrong.append(repr(text[:20]))
    told = f"{len(wrong)} texts are others by its table: {some(wrong)}" if wrong else ""
    return judged(2, "texts by tokenizer and table", told, f"{len(TEXTS)} texts of many scripts", texts=len(TEXTS))


def front_end_of(original: Original) -> FrontEndOf:
    """The source's, for a runtime's own check."""
    return FrontEndOf(original.ids, original.tokens, original.log_mel, rising_tone())


def rising_tone() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Three seconds in which every mel bin hears something: a tone that rises, in noise."""
    time = np.arange(48_000) / 16_000
    rising = 0.3 * np.sin(2 * np.pi * (100 * time + 1_100 * time**2))
    noise = np.random.default_rng(0).normal(0, 0.02, len(time))
    return (rising + noise).astype(np.float32)


def in_runtime(
    opens: Callable[[], Hearer], name: str, source: FrontEndOf, *, table: Sequence[bytes] | None = None,
    composes: bool = False,
) -> Iterator[Verdict]:  # fmt: skip
    """A runtime's special tokens, spectrum and tokens of texts beside the source's.

    One that cuts texts in its own way is held to their bytes by its `table`, others to the tokenizer's very ids. What
    `composes` letters and their accents by its own rule is told where it alone does, or does not.
    """
    with opens() as native:
        mine = native.special_ids
        known = {token: i for token, i in mine.items() if token in source.tokens}
        wrong = [f"{token} is {i}, in the tokenizer {source.tokens[token]}" for token, i in known.items()
                 if source.tokens[token] != i]  # fmt: skip
        yield judged(2, f"special tokens in {name}", some(wrong, 2), f"{len(known)} alike", tokens=len(known))
        if source.log_mel is not None and source.sound is not None:
            yield _spectrum(name, native.log_mel(source.sound), source.log_mel(source.sound), len(source.sound))
        if table is not None:
            yield _cut_by_table(native, name, source, table)
        else:
            yield _cut(native, name, source, composes=composes)


def _spectrum(name: str, mine: Floats, theirs: Floats, samples: int) -> Verdict:
    frames = samples // 160 - EDGE
    worst = float(np.abs(mine[:, :frames] - theirs[:, :frames]).max()) if len(mine) == len(theirs) else float("inf")
    problem = "" if worst <= SPECTRUM else f"off by {worst:.2g}; {len(mine)} bins, the extractor makes {len(theirs)}"
    return judged(2, f"log-mel spectrum in {name}", problem, f"at most {worst:.1g} off", worst=worst)


def _cut(native: Hearer, name: str, source: FrontEndOf, *, composes: bool) -> Verdict:
    what = f"texts in {name}"
    other = [text for text, ids in zip(TEXTS, native.tokens(TEXTS), strict=True) if ids != source.ids(text)]
    told = f"others of its tokens: {some(repr(text[:20]) for text in other)}"
    # an accent behind its letter: a normaliser of the source's, or of the runtime's, makes one sign of the two
    if other and composes and not any(unicodedata.is_normalized("NFC", text) for text in other):
        return flagged(2, what, f"{told}; it alone composes letters and accents, or the tokenizer alone does")
    return judged(2, what, told if other else "", f"{len(TEXTS)} texts, cut as the tokenizer cuts them")


def _cut_by_table(native: Hearer, name: str, source: FrontEndOf, table: Sequence[bytes]) -> Verdict:
    pairs = list(zip(TEXTS, native.tokens(TEXTS), strict=True))
    alike = sum(ids == source.ids(text) for text, ids in pairs)
    other = [repr(text[:20]) for text, ids in pairs if b"".join(table[i] for i in ids) != text.encode()]
    told = f"{len(TEXTS)} texts; {alike} cut as the tokenizer cuts them, the others longest token first"
    return judged(2, f"texts in {name}", f"others of its tokens: {some(other)}" if other else "", told, alike=alike)
