"""L2 to L5 of a language model: the source through transformers, and what each runtime makes of the same texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError
from chorus.lazy import lazy
from chorus.models.causal import KIND
from chorus.models.loading import load_parts
from chorus.models.registry import kind_of
from chorus.models.texts import plain_ids
from chorus.runtime import quiet_libraries
from chorus.transcribe.backends.huggingface import origin_of
from chorus.transcribe.systems import open_system
from chorus.verify.cost import Spent, spent
from chorus.verify.front_end import TEXTS
from chorus.verify.hearing import peak_bytes, told
from chorus.verify.logits import TIE, logits
from chorus.verify.original import Forcing
from chorus.verify.protocol import Client, FrontEndOf, Native, Subject
from chorus.verify.verdict import Verdict, fails, holds, skipped

if TYPE_CHECKING:
    import numpy as np
    import torch

    from chorus.verify.protocol import Floats
else:
    np, torch = lazy("numpy"), lazy("torch")

PROMPTS, WRITTEN = 4, 16  # texts that are continued, by so many tokens


class LanguageOriginal:
    """A causal language model as transformers runs it in float32; `CheckpointError` where the source is none."""

    def __init__(self, source: Model) -> None:
        if kind_of(source.config) is not KIND:
            kind = source.config.get("model_type") or "unknown"
            raise CheckpointError(f"{source.label}: of the type {kind}", "its logits are not compared yet")
        with quiet_libraries():
            self.parts = load_parts(KIND, origin_of(open_system(source)), "float32")
            self.parts.model = self.parts.model.eval().requires_grad_(False)

    @property
    def front_end(self) -> FrontEndOf:
        """Its tokens."""
        return FrontEndOf(lambda text: plain_ids(self.parts.tokenizer, text), self.parts.tokenizer.get_vocab())

    def logits(self, tokens: Sequence[int]) -> Floats:
        """[tokens, vocabulary]."""
        with torch.inference_mode():
            found: Floats = self.parts.model(torch.tensor([list(tokens)])).logits[0].float().numpy()
        return found

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Texts as the tokenizer begins them, short enough to be continued."""
        # a text that is cut short is one too; one without room for what follows it is of no use
        room = int(getattr(self.parts.model.config, "max_position_embeddings", 0) or 2048) - WRITTEN
        ids = [list(self.parts.tokenizer(text)["input_ids"])[:room] for text in TEXTS]
        return [one for one in ids if one]

    @cached_property
    def continued(self) -> list[list[int]]:
        """What it writes after the first of them."""
        return [continuation(self.logits, prompt) for prompt in self.prompts[:PROMPTS]]

    @cached_property
    def forcings(self) -> list[Forcing]:
        """All texts, the first with what it writes after them."""
        texts = [*(p + more for p, more in zip(self.prompts, self.continued, strict=False)), *self.prompts[PROMPTS:]]
        return [Forcing(None, tokens, 0, self.logits(tokens)) for tokens in texts]


def continuation(run: Callable[[Sequence[int]], Floats], prompt: Sequence[int]) -> list[int]:
    """The likeliest tokens after a prompt, one after the other; the end of a text is one like others."""
    tokens = list(prompt)
    # each step from the beginning: no runtime is asked to keep anything between two calls
    for _ in range(WRITTEN):
        tokens.append(int(run(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def read_by(subject: Subject, original: LanguageOriginal, client: Client, level: int) -> Iterator[Verdict]:
    """All levels of one runtime."""
    if client.front_end is not None:
        yield from told(2, f"front end of {client.name}", client.front_end(original.front_end))
    if level >= 3:
        yield from told(3, f"forced logits in {client.name}", _run(subject, original, client, level))


def _run(subject: Subject, original: LanguageOriginal, client: Client, level: int) -> Iterator[Verdict]:
    if client.forced is None:
        yield skipped(3, f"forced logits in {client.name}", "it gives none")
        return
    started = time.perf_counter()
    with client.forced() as native:
        ready_s = time.perf_counter() - started
        yield from logits(native, original.forcings, subject.kind, client.name)
        if level >= 4:
            yield from told(4, f"continuations in {client.name}", _continued(subject, original, native, client.name))
    if level >= 5:
        yield spent(Spent(ready_s, 0.0, 0.0, peak_bytes()), client.name)


def _continued(subject: Subject, original: LanguageOriginal, native: Native, name: str) -> Iterator[Verdict]:
    """What it writes by itself: token for token where nothing was quantised, but for two that are as likely."""
    what, same, other = f"continuations in {name}", 0, []
    for prompt, theirs in zip(original.prompts, original.continued, strict=False):
        mine = continuation(native.logits, prompt)
        same += mine == theirs
        # from the first other token on the two write of different things
        at = next((i for i, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), None)
        if at is not None:
            row = original.logits([*prompt, *theirs[:at]])[-1]
            other.append(float(row[theirs[at]] - row[mine[at]]))
    told_of = f"{same} of {len(original.continued)} texts go on as the source's, {WRITTEN} tokens each"
    if subject.exact and any(lost > TIE for lost in other):
        yield fails(4, what, f"{told_of}; the source's next is likelier by {max(other):.2g} of a logit", same=same)
    else:
        yield holds(4, what, told_of, same=same)
