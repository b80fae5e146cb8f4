"""The dev error rate on the way: greedy decoding, spread over the processes, summed before it is divided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.data.utterance import Utterance
from chorus.models.languages import unspaced
from chorus.tasks.counts import align, total
from chorus.tasks.normalise import Normalise
from chorus.train.backbones.protocol import Backbone
from chorus.train.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_metric(config: TrainConfig, dev: Sequence[Utterance]) -> TrainConfig:
    """The configuration with its measure named: characters where no dev language puts spaces between words."""
    if config.dev.metric is not None:
        return config
    languages = {u.row.language for u in dev if u.row.language}
    name = "cer" if config.metric == "wer" and languages and all(map(unspaced, languages)) else config.metric
    return config.model_copy(update={"dev": config.dev.model_copy(update={"metric": name})})


def edits(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, int]:
    """Summed edits and lengths, in words and in characters; for an empty reference every word is an edit."""
    words = total(one.counts for one in align(references, hypotheses, "words"))
    characters = total(one.counts for one in align(references, hypotheses, "characters"))
    return {
        "word_edits": words.errors, "words": words.length, "char_edits": characters.errors, "chars": characters.length
    }  # fmt: skip


def error_rates(
    backbone: Backbone,
    model: PreTrainedModel,
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
    ordered = sorted(utterances, key=lambda u: -u.duration_s)  # like lengths share a batch; memory runs out at once
    mine = ordered[rank::processes]
    batches = math.ceil(math.ceil(len(ordered) / processes) / batch_size)
    references: list[str] = []
    hypotheses: list[str] = []
    for i in range(batches):
        part = mine[i * batch_size : (i + 1) * batch_size]
        texts = backbone.transcribe(
            model, part or ordered[:1], max_new_tokens=max_new_tokens, window_s=window_s, synced_gpus=synced_gpus
        )
        references += [normalise(u.row.text) for u in part]
        hypotheses += [normalise(t) for t in texts[: len(part)]]
    return edits(references, hypotheses)


def rates(sums: dict[str, int]) -> dict[str, float]:
    """Error rates in percent."""
    return {
        "wer": 100 * sums["word_edits"] / max(1, sums["words"]),
        "cer": 100 * sums["char_edits"] / max(1, sums["chars"]),
    }
