"""How a merge is carried out, as opposed to what is merged: but for seed, device and what is let through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chorus.checkpoints.shards import DEFAULT_SHARD_BYTES
from chorus.linalg.blocks import CHUNK

DEFAULT_BUDGET_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Options:
    """Settings of one run. `block_values` is rounded to a multiple of the reductions' chunk."""

    device: str = "cpu"  # not auto: another device's sums have other last digits
    jobs: int | None = None
    memory_budget_bytes: int = DEFAULT_BUDGET_BYTES
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    block_values: int = 4 * CHUNK
    resume: bool = False
    overwrite: bool = False
    allow_nonfinite: bool = False
    allow_pickle: bool = False
    offline: bool = False
    cache_dir: str | None = None
    truncate_vocabulary: bool = False
    sha256: bool = False
    copy_tokenizer: bool = True
    model_card: bool = True
    seed: int | None = None
    reuse: bool = True  # spectra and bases from the cache, and into it
    within: tuple[Path, ...] = ()  # the recipes that name this one
