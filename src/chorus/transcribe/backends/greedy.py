"""Greedy decoding of Whisper: rows that have ended leave the batch, so that short ones cost what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.models.finite import need_finite

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration
else:
    torch = lazy("torch")

LEAVE_AT = 0.25  # of the rows ended: the others go on without them


def greedy(
    model: WhisperForConditionalGeneration,
    hidden: torch.Tensor,
    prefixes: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    suppress: Sequence[int] = (),
    suppress_first: Sequence[int] = (),
    observe: Callable[[list[int], torch.Tensor], None] | None = None,
) -> list[list[int]]:
    """Tokens after each prefix, up to the end token; all prefixes have one length.

    `hidden` is the encoder's output [rows, positions, width]. Same tokens as transformers' `generate` with one beam.
    `observe(rows, logits [rows, vocabulary])`, where given, sees every step.
    """
    from transformers.modeling_outputs import BaseModelOutput

    end = model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    found: list[list[int]] = [[] for _ in prefixes]
    rows = list(range(len(prefixes)))
    ended = torch.zeros(len(rows), dtype=torch.bool)
    ids, past = torch.tensor(prefixes, device=hidden.device), None
    for step in range(max_new_tokens):
        out = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=ids, past_key_values=past,
            use_cache=True,
        )  # fmt: skip
        logits, past = out.logits[:, -1].float(), out.past_key_values
        for blocked in (suppress, suppress_first if step == 0 else ()):
            if known := [token for token in blocked if 0 <= token < logits.shape[-1]]:  # as transformers has it
                logits[:, known] = float("-inf")
        if observe is not None:
            observe(rows, logits)
        best = logits.argmax(-1)
        need_finite(logits.gather(-1, best[:, None])[~ended.to(best.device)])  # a row that has ended says no more
        ids = best[:, None]
        for i, token in enumerate(best.tolist()):
            if not ended[i]:
                ended[i] = token == end
                if token != end:
                    found[rows[i]].append(token)
        if bool(ended.all()):
            break
        if float(ended.float().mean()) >= LEAVE_AT:
            keep = (~ended).nonzero()[:, 0]
            rows, ended = [rows[i] for i in keep.tolist()], ended[keep]
            chosen = keep.to(hidden.device)
            hidden, ids = hidden[chosen], ids[chosen]
            past.batch_select_indices(chosen)
    return found
