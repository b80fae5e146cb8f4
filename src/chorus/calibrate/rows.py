"""The rows of a calibration by task: what is learnt, what is measured, and test rows, which nobody may touch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.calibrate.settings import Calibration
from chorus.data.choices import TASK
from chorus.data.manifest import groups, named_manifest, read_manifest, spread
from chorus.data.split import SPLIT_NAMES
from chorus.data.utterance import Utterance
from chorus.errors import DataError, MisfitError, UsageError
from chorus.lazy import lazy
from chorus.tasks.protocol import Chooses
from chorus.train.asked import answers_labels, task_of
from chorus.train.config import DataSettings, Dev, RowSource, StartSettings, Train, TrainConfig
from chorus.train.rows import TrainingRows, decodable, gather, leaked, shown

if TYPE_CHECKING:
    import numpy
else:
    numpy = lazy("numpy")

UNNAMED = "all"  # the task of rows whose column says nothing
APART = "calibrate on rows of another split: chorus data split keeps speakers apart"


@dataclass
class Rows:
    """Utterances by task, in the tasks' order."""

    train: dict[str, list[Utterance]]
    dev: dict[str, list[Utterance]]
    by: str  # the column that tells the tasks

    @property
    def tasks(self) -> list[str]:
        return list(self.train)


def training_config(
    settings: Calibration, base: str, data: Sequence[str], dev: Sequence[str], test: Sequence[str]
) -> TrainConfig:
    """The calibration in the words of a training of the base, which reads rows and makes batches."""
    return TrainConfig(
        task=settings.task, seed=settings.seed, device=settings.device,
        model=StartSettings(base=base, dtype=settings.dtype),
        data=DataSettings(
            train=[_source(one) for one in data], dev=[_source(one) for one in dev],
            test=[_source(one) for one in [*test, *_with_tests([*data, *dev])]],
            language=settings.language, prompt=settings.prompt, timestamps=settings.timestamps,
        ),
        train=Train(batch_size=settings.batch_size, window_s=settings.window_s),
        dev=Dev(normaliser=settings.normaliser, max_new_tokens=settings.max_new_tokens),
    )  # fmt: skip


def _source(text: str) -> RowSource:
    name, path = named_manifest(text)
    return RowSource(manifest=path, domain=name)


def _with_tests(manifests: Sequence[str]) -> list[str]:
    """The manifests that have test rows: those stand beside what is calibrated on, whoever names them."""
    found = []
    for text in dict.fromkeys(manifests):
        rows = read_manifest(named_manifest(text)[1], needs=()).rows
        if any(row.split in SPLIT_NAMES["test"] for row in rows):
            found.append(text)
    return found


def read_rows(config: TrainConfig, settings: Calibration, *, needs_audio: bool, skip_bad: bool) -> TrainingRows:
    """The rows, with what train, dev and test share refused: by file and cut, by the bytes of a copy, texts by words.

    For the entropy of labels rows need no answers. Raises `DataError`, and `MisfitError` where it is of texts.
    """
    if "entropy" in (settings.objective, settings.measure):
        refuse_texts(config)
    answers = settings.objective == "cross-entropy"
    # what `gather` refuses itself is training's business, and its remedy (--allow-leakage) is none here
    rows = gather(config, needs_audio=needs_audio, skip_bad=skip_bad, allow_leakage=True, answers=answers)
    shared = _shared if not needs_audio else leaked
    for name, held, others in (
        ("dev", rows.dev, [("calibration", rows.train)]),
        ("test", rows.test, [("calibration", rows.train), ("dev", rows.dev)]),
    ):
        for where, mine in others:
            found = shared(mine, held)
            if found:
                raise DataError(f"{len(found)} {name} rows are in the {where} data: {shown(found)}", APART)
    if not rows.dev:
        raise MisfitError("no dev rows to choose the weights on", "give --dev a manifest, or rows of split dev")
    return rows


def _shared(mine: Sequence[Utterance], held: Sequence[Utterance]) -> list[str]:
    """Of rows without recordings: those of equal texts."""
    known = {u.row.text for u in mine}
    return [str(u.row) for u in held if u.row.text in known]


def by_task(rows: TrainingRows, settings: Calibration, *, needs_audio: bool, skip_bad: bool) -> Rows:
    """The rows by the values of `by`; `MisfitError` where a task has rows of one kind alone."""
    by = settings.by or (TASK if len({u.row.get(TASK) for u in rows.train}) > 1 else "domain")
    found = Rows(_grouped(rows.train, by), _grouped(rows.dev, by), by)
    # a task that is learnt and not measured could be spoilt in silence, and one that is only measured has no gradient
    odd = sorted(set(found.train) ^ set(found.dev))
    if odd:
        where = "calibration" if odd[0] in found.train else "dev"
        raise MisfitError(
            f"{by} {odd[0]}: only in the {where} rows, so that it is not both learnt and measured",
            "give both rows of it, or name the column that tells the tasks with --by",
        )
    found.dev = {task: spread(every, settings.limit) for task, every in found.dev.items()}
    if needs_audio:
        found.dev = {task: decodable(every, rows, skip_bad=skip_bad) for task, every in found.dev.items()}
    empty = [task for task, every in found.dev.items() if not every]
    if empty:
        raise MisfitError(f"{by} {empty[0]}: none of its dev rows can be measured")
    return found


def _grouped(utterances: Sequence[Utterance], column: str) -> dict[str, list[Utterance]]:
    rows = groups([u.row for u in utterances], lambda row: row.get(column) or UNNAMED)
    by_row = {id(u.row): u for u in utterances}
    return {name: [by_row[id(row)] for row in rows[name]] for name in sorted(rows)}


def refuse_texts(config: TrainConfig) -> None:
    """`MisfitError`, before anything is loaded, for manifests of a task of texts in which no row names another."""
    # of texts there are too many for a distribution over them
    if answers_labels(config.task):
        return
    for source in [*config.data.train, *(config.data.dev or [])]:
        assert source.manifest
        if not any(row.get(config.data.task_column) for row in read_manifest(source.manifest, needs=()).rows):
            raise MisfitError(
                f"{source.manifest}: answered with texts (task {config.task}), and entropy is of labels",
                "name a task of labels (--task; chorus tasks), or learn from answers (--objective cross-entropy)",
            )


def labels_of(config: TrainConfig, utterance: Utterance) -> tuple[str, ...]:
    """What a row is answered from; `MisfitError` for one that is answered with a text."""
    task = task_of(config, utterance.row)
    found = task.labels(utterance.row) if isinstance(task, Chooses) else ()
    if not found:
        raise MisfitError(
            f"{utterance.row}: answered with a text (task {task.name}), and entropy is of labels",
            "leave the row out, give it choices, or learn from answers (--objective cross-entropy)",
        )
    return found


def as_measured(settings: Calibration, rows: Rows, config: TrainConfig) -> Calibration:
    """The settings with the measure that dev's rows allow: the entropy of labels where none of them has an answer.

    Raises `MisfitError` for what has no entropy, and where some rows of dev have an answer and others none.
    """
    dev = [u for every in rows.dev.values() for u in every]
    silent = [str(u.row) for u in dev if not u.row.text.strip()]
    if silent and settings.measure != "entropy":
        if len(silent) < len(dev):
            # two measures in one rule would add nats of one kind to nats of another
            raise MisfitError(
                f"{len(silent)} of {len(dev)} dev rows have no answer: {shown(silent)}",
                "give all of them one, or choose by --measure entropy",
            )
        if settings.measure != "loss":
            raise MisfitError(
                f"no dev row has an answer that a {settings.measure} could be of", "leave --measure out: it is entropy"
            )
        settings = settings.model_copy(update={"measure": "entropy"})
    # before the first forward: a row without choices in the last batch would cost all before it
    measured = dev if settings.measure == "entropy" else []
    learnt = [u for every in rows.train.values() for u in every] if settings.objective == "entropy" else []
    for utterance in [*learnt, *measured]:
        labels_of(config, utterance)
    if settings.measure == "entropy" and settings.own:
        raise UsageError("--own names what recovery is counted to, and entropies have none", "leave it out")
    return settings


class Draws:
    """Which rows of a task an update takes: every row once before any comes again, by counters alone.

    So that a calibration that goes on after a kill draws as it would have.
    """

    def __init__(self, task: str, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed, self.stream = count, size, seed, zlib.crc32(task.encode())

    def of(self, update: int) -> list[tuple[int, int]]:
        """(epoch, row) of an update's rows, counted from 0.

        >>> draws = Draws("a", 3, 2, 0)
        >>> sorted(row for update in range(3) for _, row in draws.of(update))
        [0, 0, 1, 1, 2, 2]
        """
        # epochs follow without a gap: a batch may hold the end of one and the start of the next
        places = range(update * self.size, (update + 1) * self.size)
        return [(i // self.count, self._order(i // self.count)[i % self.count]) for i in places]

    def _order(self, epoch: int) -> Sequence[int]:
        order = numpy.random.default_rng((self.seed, self.stream, epoch)).permutation(self.count)
        return [int(i) for i in order]
