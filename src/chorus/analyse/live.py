"""One loaded base that takes the differences of any other model, and the recordings that all are given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from chorus.analyse.deltas import Opened
from chorus.analyse.recordings import check_rows, parts_of, tests_of
from chorus.checkpoints.adapted import AdaptedTensor, same_tensor
from chorus.checkpoints.lazy_tensor import KeepingTensor, LazyTensor
from chorus.data.manifest import named_manifest
from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, DataError, UsageError
from chorus.extract.pair import Counterparts, Selection, difference
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank
from chorus.runtime import pick_device
from chorus.train.asked import answered, as_of
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.protocol import IGNORED, Backbone
from chorus.train.backbones.shared import batch_of, loss_of
from chorus.train.config import Augment, DataSettings, RowSource, StartSettings, Train, TrainConfig

if TYPE_CHECKING:
    import torch

    from chorus.models.batches import Batch
    from chorus.train.live import Live
else:
    torch = lazy("torch")

BATCH = 8


@dataclass(frozen=True)
class AnalysedRows:
    """Which rows of which manifests (`[NAME=]MANIFEST`), and how they are given to the model.

    Each manifest is of the tasks that its rows name, of asr where they name none; `task` takes the rows of one alone.
    `by` makes the rows of the tables: domain, language, speaker. `split` is `test` where there is one, else all;
    `limit` counts rows of each manifest and task; `window_s` is what Whisper is given of each.
    """

    data: Sequence[str]
    split: str | None = None
    limit: int | None = None
    language: str = ""
    task: str | None = None
    by: str = "domain"
    window_s: int = 30
    batch_size: int = BATCH
    device: str = "auto"


def asked_for(recordings: AnalysedRows | Sequence[str]) -> AnalysedRows:
    """Manifests alone, with all else as it is by default."""
    return recordings if isinstance(recordings, AnalysedRows) else AnalysedRows(recordings)


@dataclass
class GivenBatch:
    """A batch as the model takes it, and how long its utterances are."""

    batch: Batch
    seconds: list[float]
    labels: int  # that have a loss


@dataclass
class LiveModel:
    """The base, with the models' differences on it, and the batches by row of the tables."""

    backbone: Backbone
    added: Live
    batches: dict[str, list[GivenBatch]]
    rows: int
    warnings: list[str] = field(default_factory=list)

    def put(self, weights: Mapping[int, float]) -> None:
        """Add to the base each model's difference times its weight; of a model that is not named nothing."""
        found = torch.zeros(self.added.shape, dtype=torch.float64)
        for place, weight in weights.items():
            found[place] = weight
        self.added.set(found)

    def losses(self) -> dict[str, float]:
        """The loss of each row of the tables: cross-entropy a label, whatever the batches."""
        found = {}
        with self.listening():
            for name, given in self.batches.items():
                summed = 0.0
                for one in given:
                    # a mean of each batch's labels, of which batches have more or fewer
                    summed += float(loss_of(self.backbone, one.batch)) * one.labels
                found[name] = summed / sum(one.labels for one in given)
        return found

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Without dropout and gradients."""
        self.backbone.model.eval()
        with torch.inference_mode():
            yield


def load_live(opened: Opened, base: str, wanted: AnalysedRows) -> LiveModel:
    """Load the base once, and its batches. All that is held beside it are the factors of adapters' differences.

    Raises `DataError` for rows that it cannot take, `CheckpointError` for a base that has no loss.
    """
    check_rows(wanted.data, wanted.by)
    tests, notes = tests_of(
        wanted.data, task=wanted.task, split=wanted.split, limit=wanted.limit, language=wanted.language
    )
    config = _config(base, wanted)
    parts = {name: _asked(found, task, config) for name, (task, found) in parts_of(tests, wanted.by).items()}
    every = [one for found in parts.values() for one in found]
    # after the rows are looked at: a mistake in a manifest need not wait for a model
    device = pick_device(wanted.device)
    backbone = load_backbone(config, device, texts=[one.row.text for one in every])
    backbone.model.to(device)
    for one in every:
        _refuse(backbone, one)
    batches = {name: _batches(backbone, rows, wanted.batch_size) for name, rows in parts.items()}
    return LiveModel(backbone, _added(backbone, opened), batches, len(every), [*opened.warnings, *notes])


def _added(backbone: Backbone, opened: Opened) -> Live:
    """The loaded base and what every model adds to each tensor: in factors as far as it is known so, else streamed."""
    from chorus.train.live import Deltas, Live, own_names

    jobs = opened.jobs(Selection())
    own = own_names(backbone.model, [one[0].name for one in jobs])
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.model.state_dict().items()}
    for job, *_ in jobs:
        if job.name in own and shapes.get(own[job.name]) != tuple(job.shape):
            raise CheckpointError(
                f"{job.name}: not in the loaded model as the file has it",
                "such a model is merged and evaluated, but its weights cannot be put in place",
            )

    def deltas() -> Iterator[Deltas]:
        for one in jobs:
            found = Deltas(one[0].name, 0, math.prod(one[0].shape), base=partial(_flat, one[0].origin))
            for place, (job, label) in enumerate(zip(one, opened.labels, strict=True)):
                if same_tensor(job.tensor, job.origin):
                    continue
                # of an adapter alone, since all else would be formed whole to be looked at
                delta = difference(job, label) if isinstance(job.tensor, AdaptedTensor) else None
                if isinstance(delta, LowRank):
                    found.factors[place] = delta.matrix()
                else:
                    found.dense[place] = partial(_difference, job, label)
            if found.factors or found.dense:
                yield found

    return Live(backbone.model, deltas(), (len(opened.labels), 1), stored=[one[0].name for one in jobs])


def _difference(job: Counterparts, label: str) -> torch.Tensor:
    """What a model adds to a tensor, read anew at each call."""
    found = difference(job, label)
    assert not isinstance(found, LowRank)
    # of hundreds of tensors what each keeps for the next read would be a model
    if isinstance(job.tensor, KeepingTensor):
        job.tensor.release()
    return found.reshape(-1)


def _flat(origin: LazyTensor) -> torch.Tensor:
    return origin.read().reshape(-1)


def _asked(utterances: Sequence[Utterance], task: str, config: TrainConfig) -> list[Utterance]:
    """Rows of one task, each as it is asked and answered in a training."""
    rows = as_of([one.row for one in utterances], task, config.data.task_column)
    named = [replace(one, row=row) for one, row in zip(utterances, rows, strict=True)]
    return answered(named, config, rows)


def _config(base: str, wanted: AnalysedRows) -> TrainConfig:
    """The recordings in the words of a training, which knows how every kind of model takes rows."""
    return TrainConfig(
        device=wanted.device, model=StartSettings(base=base, dtype="float32"),
        # without timestamps: a loss on times would drown that on words
        data=DataSettings(
            train=[RowSource(manifest=named_manifest(one)[1]) for one in wanted.data],
            language=wanted.language, timestamps=0.0,
        ),
        train=Train(batch_size=wanted.batch_size, window_s=[wanted.window_s]),
    )  # fmt: skip


def _refuse(backbone: Backbone, one: Utterance) -> None:
    longest = backbone.longest_s
    # it would be cut in silence, and its text would not
    if longest is not None and one.duration_s > longest + 0.01:
        raise DataError(
            f"{one.row}: {one.duration_s:.1f} s, and the model is given {longest:g} s at once",
            "a larger --window, up to what the model takes; or leave the row out",
        )
    if not one.row.text.strip():
        raise DataError(f"{one.row}: no text, of which there is no loss", "leave such rows out")
    reason = backbone.misfit(one) or next(
        (f"{kind}: {told}" for _, kind, told in backbone.limits.problems([one.row])), ""
    )
    if reason:
        raise DataError(f"{one.row}: {reason}", "leave the row out")


def _batches(backbone: Backbone, rows: Sequence[Utterance], size: int) -> list[GivenBatch]:
    """Batches of like lengths, the same ones for every model."""
    # as a training sorts them: little is padded
    ordered = sorted(rows, key=lambda u: -u.duration_s)
    found = []
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        batch = batch_of(backbone, [backbone.example(one, None, Augment()) for one in part])
        labels = int((batch["labels"] != IGNORED).sum())
        found.append(GivenBatch(batch, [one.duration_s for one in part], labels))
    return found


def base_directory(base: object) -> str:
    """The base as a name that transformers can load; `UsageError` where it is a plan or a recipe."""
    if isinstance(base, str) and not base.endswith((".yml", ".yaml")):
        return base
    text = str(base)
    if hasattr(base, "__fspath__"):
        return text
    raise UsageError("the base must be a model's directory or hub id here", "write the merge first: chorus merge")
