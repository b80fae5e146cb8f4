"""Texts as tokens: what stands in a text is text, never a control token of the model that learns or hears it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHAPE = re.compile(r"<\|[^|<>]{1,40}\|>")  # of Whisper's and Qwen's tokens; a timestamp is one in any vocabulary
Span = tuple[int, int]


class Markers:
    """The control tokens of a tokenizer, as they may stand in a text by mistake (`<|endoftext|>`, `<pad>`, `|`)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        known = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        known |= {*map(str, tokenizer.all_special_tokens), str(getattr(tokenizer, "word_delimiter_token", "") or "")}
        every = [*known, *tokenizer.get_added_vocab()]
        shapes = [SHAPE.pattern] if any(SHAPE.fullmatch(name) for name in every) else []
        # the longest first; a delimiter that is a space is what it should be
        others = sorted((n for n in known if n.strip() and not SHAPE.fullmatch(n)), key=lambda n: (-len(n), n))
        self._pattern = re.compile("|".join([*shapes, *map(re.escape, others)]) or r"(?!)")

    def found(self, text: str) -> list[str]:
        """Those that stand in a text, each once."""
        return list(dict.fromkeys(self._pattern.findall(text)))

    def without(self, text: str) -> str:
        """The text with a space in the place of each; as it is where there is none."""
        return " ".join(self._pattern.sub(" ", text).split()) if self._pattern.search(text) else text


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens; what looks like a special token is text too."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


class Labels:
    """A text as the tokens that a model's own decoding can write, in Whisper's way: with a space before the first word.

    `suppressed` tokens are never written, `not_first` not as the first. Where nothing joins that space to the first
    letter (Bengali, Telugu, Chinese ...) it would be a token by itself, which no Whisper may begin with: such texts
    begin with their first letter, as those of languages do that put no spaces between words (`spaced` is false).
    Symbols that are suppressed are left out, as the model leaves them out itself.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, suppressed: Collection[int] = (), not_first: Collection[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        # control tokens are no text, whoever asks
        control = {i for i, token in tokenizer.added_tokens_decoder.items() if _controls(token.content, token.special)}
        self.suppressed = frozenset(suppressed) | control
        # runtimes suppress the lone space whatever the settings say (openai-whisper, faster-whisper, whisper.cpp)
        self.not_first = frozenset({*not_first, *plain_ids(tokenizer, " ")})

    def __call__(self, text: str, *, spaced: bool = True) -> list[int]:
        return self._written(f" {text}" if spaced else text)[0]

    def left_out(self, text: str) -> list[str]:
        """What of a text is not learnt, because it is never written."""
        return self._written(f" {text}")[1]

    def _written(self, said: str) -> tuple[list[int], list[str]]:
        left: list[str] = []
        while True:  # at each turn a letter less, or a space
            ids, spans = self._encoded(said)
            if ids and ids[0] in self.not_first and said.startswith(" "):
                said = said[1:]
                continue
            bad = [span for token, span in zip(ids, spans, strict=True) if token in self.suppressed]
            if not bad and ids and ids[0] in self.not_first:
                bad = spans[:1]
            if not bad:
                return ids, list(dict.fromkeys(left))
            left += [said[a:b].strip() or said[a:b] for a, b in bad]
            said = _cut(said, bad)

    def _encoded(self, text: str) -> tuple[list[int], list[Span]]:
        found = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )  # fmt: skip
        return found["input_ids"], found["offset_mapping"]


def _controls(content: str, special: bool) -> bool:
    return special or SHAPE.fullmatch(content) is not None


def _cut(text: str, spans: list[Span]) -> str:
    """The text without these spans; what they kept apart stays apart."""
    for start, end in reversed(spans):
        before, after = text[:start], text[end:]
        joint = " " if before[-1:].isalnum() and after[:1].isalnum() else ""
        text = before + joint + after
    space = " " if text.startswith(" ") else ""
    return space + " ".join(text.split())
