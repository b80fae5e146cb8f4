"""What several kinds of models need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from chorus.checkpoints.sidecar import VOCABULARIES
from chorus.errors import CheckpointError
from chorus.train.backbones.protocol import IGNORED
from chorus.train.config import TrainConfig


def load_dtype(config: TrainConfig, device: str) -> Any:
    """Weights are trained in float32 unless told; a frozen base under an adapter may be kept smaller on a GPU."""
    name = config.model.dtype
    if name != "auto":
        return getattr(torch, name)
    adapter = config.adapter is not None or config.model.adapter
    return torch.bfloat16 if adapter and device.startswith(("cuda", "xpu")) else torch.float32


def load_pretrained(cls: Any, config: TrainConfig, dtype: Any, **more: Any) -> Any:
    """`from_pretrained`, of safetensors only, whose failure says what could not be loaded."""
    more |= {"revision": config.model.revision, "dtype": dtype, "use_safetensors": True}
    try:
        return cls.from_pretrained(config.model.base, **more)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{config.model.base}: cannot be loaded ({error})", "check model.base; .bin files are not read"
        ) from None


def load_side(cls: Any, config: TrainConfig, what: str) -> Any:
    """A tokenizer or feature extractor; `CheckpointError` where the directory has none.

    transformers 5 makes an empty tokenizer of a directory without one, so that the files are looked for first.
    """
    base = Path(config.model.base)
    if what == "tokenizer" and base.is_dir() and not any((base / name).exists() for name in VOCABULARIES):
        raise CheckpointError(
            f"{base}: no tokenizer (none of {', '.join(VOCABULARIES)})", "copy it from the base model"
        )
    try:
        return cls.from_pretrained(config.model.base, revision=config.model.revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{config.model.base}: no {what} ({reason})", f"copy the {what}'s files beside the weights"
        ) from None


def pad(sequences: Sequence[Sequence[int]], value: int, *, left: bool = False) -> torch.Tensor:
    """Integer sequences as one tensor [batch, longest]."""
    width = max(map(len, sequences))
    rows = []
    for one in sequences:
        filling = [value] * (width - len(one))
        rows.append([*filling, *one] if left else [*one, *filling])
    return torch.tensor(rows)


def pad_labels(labels: Sequence[Sequence[int]]) -> torch.Tensor:
    """Labels as one tensor; what is added has no loss."""
    return pad(labels, IGNORED)


def row_numbers(examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([e.get("row", -1) for e in examples])


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients, and back."""
    was = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was)
