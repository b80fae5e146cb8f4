"""The dev error rate on the way: greedy decoding, spread over the processes, summed before it is divided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chorus.data.utterance import Utterance
from chorus.models.languages import unspaced
from chorus.tasks.counts import edits as counted
from chorus.tasks.counts import total
from chorus.tasks.normalise import Normalise
from chorus.train.backbones.protocol import Backbone
from chorus.train.config import TrainConfig


def with_metric(config: TrainConfig, dev: Sequence[Utterance]) -> TrainConfig:
    """The configuration with its measure named: characters where no dev language puts spaces between words."""
    if config.dev.metric is not None:
        return config
    languages = {u.row.language for u in dev if u.row.language}
    name = "cer" if config.metric == "wer" and languages and all(map(unspaced, languages)) else config.metric
    return config.model_copy(update={"dev": config.dev.model_copy(update={"metric": name})})


def edits(references: Sequence[str], heard: Sequence[str]) -> dict[str, int]:
    """Summed edits and lengths, in words and in characters; an empty reference makes every heard word an edit."""
    pairs = list(zip(references, heard, strict=True))
    words, characters = (total(counted(r, h, unit) for r, h in pairs) for unit in ("words", "characters"))
    return {
        "word_edits": words.errors, "words": words.length, "char_edits": characters.errors, "chars": characters.length
    }  # fmt: skip


def error_rates(
    backbone: Backbone,
    model: Any,
    utterances: Sequence[Utterance],
    *,
    normalise: Normalise,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    max_new_tokens: int | None = None,
    window_s: float | None = None,
    synced_gpus: bool = False,
) -> dict[str, int]:
    """The edits of this process's share; every process decodes equally many batches, as sharded models need.

    `share` is this process's rank, and how many there are; the others are as `Backbone.transcribe` has them.
    """
    rank, processes = share
    ordered = sorted(utterances, key=lambda u: -u.duration_s)
    mine = ordered[rank::processes]
    batches = math.ceil(math.ceil(len(ordered) / processes) / batch_size)
    references, heard = [], []
    for i in range(batches):
        part = mine[i * batch_size : (i + 1) * batch_size]
        texts = backbone.transcribe(
            model, part or ordered[:1], max_new_tokens=max_new_tokens, window_s=window_s, synced_gpus=synced_gpus
        )
        references += [normalise(u.row.text) for u in part]
        heard += [normalise(t) for t in texts[: len(part)]]
    return edits(references, heard)


def rates(sums: dict[str, int]) -> dict[str, float]:
    """Error rates in percent."""
    return {
        "wer": 100 * sums["word_edits"] / max(1, sums["words"]),
        "cer": 100 * sums["char_edits"] / max(1, sums["chars"]),
    }
