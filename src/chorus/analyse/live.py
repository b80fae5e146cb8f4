"""One loaded model that takes the weights of any other of its base, and the recordings that all are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from chorus.analyse.deltas import Opened
from chorus.analyse.recordings import check_rows, parts_of, tests_of
from chorus.architectures.conversion import Names
from chorus.checkpoints.lazy_tensor import MemoryTensor
from chorus.data.manifest import named_manifest
from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, DataError, UsageError
from chorus.extract.pair import Counterparts, Selection
from chorus.lazy import lazy
from chorus.models.loading import put_weights
from chorus.runtime import pick_device
from chorus.train.asked import answered, as_of
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.protocol import IGNORED, Backbone
from chorus.train.backbones.shared import batch_of, loss_of
from chorus.train.config import Augment, DataSettings, RowSource, StartSettings, Train, TrainConfig

if TYPE_CHECKING:
    import torch

    from chorus.models.batches import Batch
else:
    torch = lazy("torch")

BASE = -1  # of the places that weights come from: the base itself
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
    """The model, the batches by row of the tables, and where each set of weights is read from."""

    backbone: Backbone
    opened: Opened
    jobs: list[list[Counterparts]]
    batches: dict[str, list[GivenBatch]]
    rows: int
    warnings: list[str] = field(default_factory=list)

    def weights(self, place: int) -> dict[str, torch.Tensor]:
        """The tensors of one of the models, or of the base, in float32."""
        found = {}
        for one in self.jobs:
            # every counterpart knows the base
            job = one[max(place, 0)]
            found[job.name] = (job.origin if place == BASE else job.tensor).read().float()
        return found

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put weights into the model; `CheckpointError` where its class keeps several tensors in one."""
        names = Names(self.backbone.model)  # of the module tree, which speech language models' files do not keep to
        own = {name: next(iter(names.targets(name)), name) for name in tensors}
        odd = [name for name, value in tensors.items() if names.tree.get(own[name]) != tuple(value.shape)]
        if odd:
            raise CheckpointError(
                f"{odd[0]}: not in the loaded model as the file has it",
                "such a model is merged and evaluated, but its weights cannot be put in place",
            )
        put_weights(self.backbone.model, {own[n]: MemoryTensor(own[n], value) for n, value in tensors.items()})

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
    """Load the base once, and its batches; every other model's weights are put into it.

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
    return LiveModel(backbone, opened, opened.jobs(Selection()), batches, len(every), [*opened.warnings, *notes])


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
