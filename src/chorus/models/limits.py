"""What a model can write and take: by its tokenizer, its decoder's length, its window, its languages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from chorus.models.languages import language_code
from chorus.models.texts import Labels, Markers
from chorus.plain import JsonMap, JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# kinds of notices
NO_LANGUAGE, OTHER_LANGUAGE, NOT_LEARNT = "no language", "not the model's language", "symbols that are not learnt"
PROMPT = "prompt"  # a manifest's column: what is asked about a row


def with_generation(config: JsonMap, generation: JsonMap) -> JsonObject:
    """A config with what its generation settings say: which tokens are never written, and the numbers of some.

    Old checkpoints have these keys in config.json.
    """
    return {**config, **{key: value for key, value in generation.items() if value is not None}}


class Written(Protocol):
    """What is asked of a row."""

    @property
    def text(self) -> str: ...
    @property
    def language(self) -> str: ...
    def get(self, column: str, /) -> str: ...


R = TypeVar("R", bound=Written)


class Limits:
    """The limits that texts and audio must keep to be learnt by a model.

    languages  codes; none means any
    only       the code of the one language of a model that is asked for none
    bare       a text as the tokenizer is given it
    labels     the tokens of a text, where the model's decoding does not write every token
    asked      whether the model is given what a row's column `prompt` says
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int | None = None,
        max_audio_s: float | None = None,
        languages: Iterable[str] = (),
        only: str = "",
        bare: Callable[[str], str] = lambda text: text,
        labels: Labels | None = None,
        asked: bool = False,
    ) -> None:
        self.tokenizer, self.max_tokens, self.max_audio_s = tokenizer, max_tokens, max_audio_s
        self.languages, self.only, self.bare, self.labels, self.asked = set(languages), only, bare, labels, asked
        self.markers = Markers(tokenizer)
        # byte-level tokenizers write everything; some call their end token the unknown one, which then says nothing
        unknown = getattr(tokenizer, "unk_token_id", None)
        self.unknown: int | None = None if unknown == getattr(tokenizer, "eos_token_id", None) else unknown

    def problems(self, rows: Sequence[R]) -> Iterator[tuple[R, str, str]]:
        """Rows whose text or language the model cannot take: (row, kind, detail)."""
        for row, ids in zip(rows, self._encoded(rows), strict=True):
            prompt = row.get(PROMPT) if self.asked else ""
            marked = [*self.markers.found(self.bare(row.text)), *self.markers.found(prompt)]
            if marked:  # says no more: what else is wrong with it may come from there
                yield row, "special tokens in text", " ".join(marked)
                continue
            if self.unknown is not None and self.unknown in ids:
                yield row, "unwritable text", self._unwritable(self.bare(row.text))
            if self.labels is not None and row.text.strip() and not self._said(row.text, ids):
                yield row, "unwritable text", "the model's decoding writes none of its symbols"
            if self.max_tokens is not None and len(ids) > self.max_tokens:
                yield row, "text too long", f"{len(ids)} tokens, the decoder takes {self.max_tokens}"
            if self.languages and row.language and language_code(row.language) not in self.languages:
                yield row, "unknown language", row.language

    def notices(self, rows: Sequence[R]) -> Iterator[tuple[R, str, str]]:
        """Rows of which a part is not learnt, or whose language the model is not told: (row, kind, detail)."""
        for row in rows:
            if self.languages and not row.language:
                yield row, NO_LANGUAGE, ""
            if self.only and row.language and language_code(row.language) != self.only:
                yield row, OTHER_LANGUAGE, row.language
        if self.labels is None:
            return
        for row, ids in zip(rows, self._encoded(rows), strict=True):
            left = self.labels.left_out(row.text) if not self.labels.suppressed.isdisjoint(ids) else []
            if left:
                yield row, NOT_LEARNT, " ".join(left)

    def _encoded(self, rows: Sequence[R]) -> list[list[int]]:
        texts = [self.bare(row.text) for row in rows]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _said(self, text: str, ids: Sequence[int]) -> bool:
        """Whether anything is left; the longer way only where something is suppressed."""
        assert self.labels is not None
        return self.labels.suppressed.isdisjoint(ids) or bool(self.labels(text))

    def _unwritable(self, text: str) -> str:
        bad = sorted({c for c in text if not c.isspace() and self.unknown in self._ids(c)})
        return " ".join(f"{c!r}" for c in bad[:8]) or "unknown token"

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
