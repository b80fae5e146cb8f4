"""What a model can write and take: by its tokenizer, its decoder's length, its window, its languages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from chorus.models.languages import language_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Written(Protocol):
    """What is asked of a row."""

    @property
    def text(self) -> str: ...
    @property
    def language(self) -> str: ...


R = TypeVar("R", bound=Written)


class Limits:
    """The limits that texts and audio must keep to be learnt by a model.

    `languages` are codes; none means any. `bare` writes a text as the tokenizer is given it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int | None = None,
        max_audio_s: float | None = None,
        languages: Iterable[str] = (),
        bare: Callable[[str], str] = lambda text: text,
    ) -> None:
        self.tokenizer, self.max_tokens, self.max_audio_s = tokenizer, max_tokens, max_audio_s
        self.languages, self.bare = set(languages), bare
        # byte-level tokenizers write everything; some call their end token the unknown one, which then says nothing
        unknown = getattr(tokenizer, "unk_token_id", None)
        self.unknown: int | None = None if unknown == getattr(tokenizer, "eos_token_id", None) else unknown

    def problems(self, rows: Sequence[R]) -> Iterator[tuple[R, str, str]]:
        """Rows whose text or language the model cannot take: (row, kind, detail)."""
        encoded = self.tokenizer([self.bare(row.text) for row in rows], add_special_tokens=False)["input_ids"]
        for row, ids in zip(rows, encoded, strict=True):
            if self.unknown is not None and self.unknown in ids:
                yield row, "unwritable text", self._unwritable(self.bare(row.text))
            if self.max_tokens is not None and len(ids) > self.max_tokens:
                yield row, "text too long", f"{len(ids)} tokens, the decoder takes {self.max_tokens}"
            if self.languages and row.language and language_code(row.language) not in self.languages:
                yield row, "unknown language", row.language

    def _unwritable(self, text: str) -> str:
        bad = sorted({c for c in text if not c.isspace() and self.unknown in self._ids(c)})
        return " ".join(f"{c!r}" for c in bad[:8]) or "unknown token"

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
