"""The dev error rate on the way: greedy decoding, spread over the processes, summed before it is divided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.models.finite import NotFiniteError
from chorus.models.languages import unspaced
from chorus.tasks.counts import Alignment, align, total
from chorus.tasks.normalise import Normalise
from chorus.train.asked import task_of
from chorus.train.backbones.protocol import Backbone
from chorus.train.config import LANGUAGE_MODELLING, TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_metric(config: TrainConfig, dev: Sequence[Utterance]) -> TrainConfig:
    """The configuration with its measure named: characters where no dev language puts spaces between words."""
    if config.dev.metric is not None:
        return config
    languages = {written(config, u.row) for u in dev} - {""}
    name = "cer" if config.metric == "wer" and languages and all(map(unspaced, languages)) else config.metric
    return config.model_copy(update={"dev": config.dev.model_copy(update={"metric": name})})


def written(config: TrainConfig, row: Row) -> str:
    """The language that a row's text is written in: of a translation not the spoken one."""
    return row.language if config.task == LANGUAGE_MODELLING else task_of(config, row).written(row)


def edits(
    references: Sequence[str], hypotheses: Sequence[str], letters: Sequence[bool] | None = None
) -> dict[str, int]:
    """Summed edits and lengths, in words and in characters; for an empty reference every word is an edit.

    A space is a character, but not in texts that are written without spaces between words (`letters`).
    """
    words = total(one.counts for one in align(references, hypotheses, "words"))
    flags = letters or [False] * len(references)
    alignments: list[Alignment] = []
    for own in (False, True):
        chosen = [(a, b) for a, b, flag in zip(references, hypotheses, flags, strict=True) if flag is own]
        alignments += align([a for a, _ in chosen], [b for _, b in chosen], "characters", spaces=not own)
    characters = total(one.counts for one in alignments)
    return {
        "word_edits": words.errors, "words": words.length, "char_edits": characters.errors, "chars": characters.length
    }  # fmt: skip


def error_rates(
    backbone: Backbone,
    model: PreTrainedModel,
    utterances: Sequence[Utterance],
    *,
    normalise: Normalise,
    language: Callable[[Row], str] = lambda row: row.language,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    max_new_tokens: int | None = None,
    window_s: float | None = None,
    synced_gpus: bool = False,
) -> dict[str, int]:
    """The edits of this process's share; every process decodes equally many batches, as sharded models need.

    `share` is this process's rank, and how many there are; `language` tells what a row is written in; the others are as
    `Backbone.transcribe` has them.
    """
    rank, processes = share
    ordered = sorted(utterances, key=lambda u: -u.duration_s)  # like lengths share a batch; memory runs out at once
    mine = ordered[rank::processes]
    batches = math.ceil(math.ceil(len(ordered) / processes) / batch_size)
    references: list[str] = []
    hypotheses: list[str] = []
    letters: list[bool] = []
    for i in range(batches):
        part = mine[i * batch_size : (i + 1) * batch_size]

        def decode(rows: Sequence[Utterance]) -> list[str]:
            return backbone.transcribe(
                model, rows, max_new_tokens=max_new_tokens, window_s=window_s, synced_gpus=synced_gpus
            )

        # processes that wait for each other cannot try rows one by one
        texts = decode(part or ordered[:1]) if synced_gpus else _heard(decode, part or ordered[:1])
        references += [normalise(u.row.text) for u in part]
        hypotheses += [normalise(t) for t in texts[: len(part)]]
        letters += [unspaced(language(u.row)) for u in part]
    return edits(references, hypotheses, letters)


def _heard(decode: Callable[[Sequence[Utterance]], list[str]], rows: Sequence[Utterance]) -> list[str]:
    """Hypotheses; a row of which the model makes no finite numbers has failed, and counts as an empty one."""
    try:
        return decode(rows)
    except NotFiniteError:
        return [""] if len(rows) == 1 else [text for row in rows for text in _heard(decode, [row])]


def rates(sums: dict[str, int]) -> dict[str, float]:
    """Error rates in percent."""
    return {
        "wer": 100 * sums["word_edits"] / max(1, sums["words"]),
        "cer": 100 * sums["char_edits"] / max(1, sums["chars"]),
    }
