"""What a loaded model reaches on the dev rows of each task, batch by batch, so that two can be compared in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from chorus.calibrate.entropy import entropies
from chorus.calibrate.recovery import Figures, Part
from chorus.calibrate.settings import Measure
from chorus.data.utterance import Utterance
from chorus.tasks.normalise import normaliser
from chorus.train.backbones.protocol import IGNORED, Backbone
from chorus.train.backbones.shared import batch_of, loss_of
from chorus.train.config import Augment, TrainConfig
from chorus.train.measure import error_rates, written

FEWEST = 4  # batches, where there are so many rows


def measured(
    backbone: Backbone, config: TrainConfig, rows: Mapping[str, Sequence[Utterance]], what: Measure
) -> Figures:
    """The figures of every task: of each batch [loss times labels, labels], [errors, length] or [entropies, rows]."""
    one = (
        _loss if what == "loss" else partial(_entropy, config) if what == "entropy" else partial(_errors, config, what)
    )
    return {task: [one(backbone, part) for part in _parts(every, config)] for task, every in rows.items()}


def _parts(rows: Sequence[Utterance], config: TrainConfig) -> Iterator[Sequence[Utterance]]:
    """Batches of like lengths, the same ones every time; a gain's error is told over them, so of few rows several."""
    # longest first: where memory does not suffice it is told at once
    ordered = sorted(rows, key=lambda u: -u.duration_s)
    size = max(1, min(config.train.batch_size, len(rows) // FEWEST))
    return (ordered[i : i + size] for i in range(0, len(ordered), size))


def _loss(backbone: Backbone, part: Sequence[Utterance]) -> Part:
    with torch.inference_mode():
        # without draws: what is measured must be the same every time
        batch = batch_of(backbone, [backbone.example(u, None, Augment()) for u in part])
        count = float((batch["labels"] != IGNORED).sum())
        return [float(loss_of(backbone, batch)) * count, count]


def _entropy(config: TrainConfig, backbone: Backbone, part: Sequence[Utterance]) -> Part:
    with torch.inference_mode():
        return [float(entropies(backbone, config, part).sum()), float(len(part))]


def _errors(config: TrainConfig, what: Measure, backbone: Backbone, part: Sequence[Utterance]) -> Part:
    sums = error_rates(
        backbone, backbone.model, part, normalise=normaliser(config.dev.normaliser), language=partial(written, config),
        batch_size=len(part), max_new_tokens=config.dev.max_new_tokens,
    )  # fmt: skip
    keys = ("word_edits", "words") if what == "wer" else ("char_edits", "chars")
    return [float(sums[keys[0]]), float(sums[keys[1]])]
