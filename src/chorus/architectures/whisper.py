"""What Whisper needs beside its weights: generation settings, and an encoder on less than thirty seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from chorus.errors import UsageError
from chorus.lazy import lazy

torch = lazy("torch")

TASK_TOKENS = {"asr": "transcribe", "st": "translate"}  # Whisper's words for tasks
TASKS = tuple(TASK_TOKENS.values())


def task_token(task: str) -> str:
    """Whisper's word for a task; `UsageError` where it was never taught one."""
    if task not in TASK_TOKENS:
        raise UsageError(f'Whisper has no token for the task "{task}"', f"it knows {' and '.join(TASK_TOKENS)}")
    return TASK_TOKENS[task]


@contextmanager
def shorter_window(model: Any, positions: int) -> Iterator[None]:
    """Let a transformers Whisper hear `positions` (a fiftieth of a second each) while the context lasts.

    The encoder's positions are sinusoids, so that the first rows of their table are the table of the shorter window,
    and five seconds cost a sixth of thirty.
    """
    config = model.config
    whole = int(config.max_source_positions)
    if positions == whole:
        yield
        return
    encoder = model.get_encoder()
    table = encoder.embed_positions
    shorter = torch.nn.Embedding(positions, table.embedding_dim, _weight=table.weight[:positions].detach())
    encoder.embed_positions = shorter.requires_grad_(False)
    config.max_source_positions = positions
    try:
        yield
    finally:
        encoder.embed_positions = table
        config.max_source_positions = whole


def complete_generation(model: Any, tokenizer: Any, languages: Iterable[str]) -> None:
    """Fill in what runtimes read in generation_config.json, from the tokenizer where the model lacks it.

    `languages` are the codes that the tokenizer knows; none means an English-only model.
    """
    settings = model.generation_config
    ids = tokenizer.convert_tokens_to_ids
    vars(settings).pop("forced_decoder_ids", None)  # of old checkpoints: it would fix the language of every row
    codes = sorted(c for c in languages if ids(f"<|{c}|>") not in (None, tokenizer.unk_token_id))
    known = {
        "decoder_start_token_id": ids("<|startoftranscript|>"),
        "no_timestamps_token_id": ids("<|notimestamps|>"),
        "prev_sot_token_id": ids("<|startofprev|>"),
        "is_multilingual": bool(codes),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    }
    if codes:
        known["lang_to_id"] = {f"<|{code}|>": ids(f"<|{code}|>") for code in codes}
        known["task_to_id"] = {task: ids(f"<|{task}|>") for task in TASKS}
    for key, value in known.items():
        if getattr(settings, key, None) is None:
            setattr(settings, key, value)
