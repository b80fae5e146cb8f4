"""st: what was said, in another language: BLEU and chrF of the texts as they are, by sacrebleu.

BLEU counts words as 13a cuts them, which takes a sentence without spaces for one word: Chinese is cut as sacrebleu's
`zh` does, other such languages into characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

from chorus.errors import MissingExtraError
from chorus.lazy import lazy
from chorus.models.languages import CHINESE, language_code, language_name, unspaced
from chorus.tasks.scored import ERROR_RATE, score_texts, speakers_or_utterances

if TYPE_CHECKING:
    import numpy as np

    from chorus.tasks.counts import Unit
    from chorus.tasks.protocol import Asked, Metric
    from chorus.tasks.scored import Answer, Clusters, Floats, Scored
else:
    np = lazy("numpy")

TARGET = "target_language"  # a manifest's column; without it the texts are English, as Whisper's translations are
TOKENIZERS = ("13a", "zh", "char")
KEPT = 200_000  # segments whose statistics are remembered: one is counted in its domain, its group, and in all


class _Score(Protocol):
    score: float


class _Sacrebleu(Protocol):
    """What every metric of sacrebleu has (sacrebleu/metrics/base.py names it as what a metric must implement)."""

    def corpus_score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> _Score: ...
    def get_signature(self) -> object: ...
    def _extract_corpus_statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> list[list[int]]: ...
    def _compute_score_from_stats(self, stats: list[int]) -> _Score: ...


class SacrebleuMetric:
    """BLEU or chrF: sacrebleu's n-gram counts of each segment, and its score of their sum."""

    best = 100.0

    def __init__(self, name: str, title: Literal["BLEU", "chrF"]) -> None:
        self.name, self.title = name, title

    @cached_property
    def _metrics(self) -> dict[str, _Sacrebleu]:
        """By the tokenizer, in the order in which they are told; chrF, of characters in any case, has one."""
        try:
            from sacrebleu.metrics import BLEU, CHRF
        except ImportError:
            raise MissingExtraError("evaluate", "BLEU and chrF") from None
        if self.title == "BLEU":
            return {name: BLEU(tokenize=name) for name in TOKENIZERS}
        return dict.fromkeys(TOKENIZERS, CHRF())

    def signature(self) -> str:
        return self.signature_of(())

    def signature_of(self, rows: Sequence[Scored]) -> str:
        used = {tokenizer_of(row.written) for row in rows} or {TOKENIZERS[0]}
        told = []
        for name, metric in self._metrics.items():
            if name in used:
                metric.corpus_score(["a"], [["a"]])  # it has none before it has seen how many references there are
                told.append(str(metric.get_signature()))
        return " and ".join(dict.fromkeys(told))

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """Counts of n-grams [answers, 10 or 18]; the texts as they are, without a normaliser."""
        return np.array(
            [_counted(self, tokenizer_of(row.written), row.raw_hypothesis, row.raw_reference) for row in rows],
            np.float64,
        )  # fmt: skip

    def values(self, sums: Floats) -> Floats:
        # of sums: whatever cut the words
        metric = self._metrics[TOKENIZERS[0]]
        return np.array([metric._compute_score_from_stats(s.astype(int).tolist()).score for s in sums])


def tokenizer_of(code: str) -> str:
    """Which of sacrebleu's tokenizers cuts texts of a language into words.

    >>> [tokenizer_of(code) for code in ("de", "zh-TW", "ja", "")]
    ['13a', 'zh', 'char', '13a']
    """
    if not unspaced(code):
        return "13a"
    return "zh" if language_code(code).split("-")[0] in {"zh", *CHINESE} else "char"


@lru_cache(KEPT)
def _counted(metric: SacrebleuMetric, tokenizer: str, hypothesis: str, reference: str) -> list[int]:
    return metric._metrics[tokenizer]._extract_corpus_statistics([hypothesis], [[reference]])[0]


BLEU, CHRF = SacrebleuMetric("bleu", "BLEU"), SacrebleuMetric("chrf", "chrF")


class St:
    """The task (see protocol.py)."""

    name = "st"
    summary = "what was said, translated"
    spellings = ("translate", "speech-translation")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (BLEU, CHRF, ERROR_RATE)

    def instruction(self, row: Asked) -> str:
        return f"Translate this audio to {language_name(self.written(row))}."

    def reference(self, row: Asked) -> str:
        return row.text

    def written(self, row: Asked) -> str:
        return row.get(TARGET) or "en"

    def score(self, rows: Sequence[Answer], normaliser: str, unit: Unit | None = None) -> list[Scored]:
        return score_texts(rows, normaliser, unit)

    def clusters(self, rows: Sequence[Scored]) -> tuple[Clusters, str]:
        return speakers_or_utterances(rows)


ST = St()
