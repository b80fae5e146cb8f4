"""One calibration from a recipe to a recipe: drawn, learnt, measured, chosen; killed and given again, it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from chorus.calibrate.settings import Calibration
from chorus.errors import ChorusError, OutputError, UsageError, nearest
from chorus.identity import fingerprint
from chorus.ledger import Ledger
from chorus.merge.options import Options
from chorus.merge.planning.planner import plan as make_plan
from chorus.runtime import claim_device, quiet_libraries, seed_everything

if TYPE_CHECKING:
    from torch import Tensor

    from chorus.calibrate.groups import Groups
    from chorus.calibrate.learning import Learner
    from chorus.calibrate.recovery import Figures, Marks
    from chorus.calibrate.rows import Rows
    from chorus.checkpoints.writer import PartialDirectory
    from chorus.merge.plan import Plan
    from chorus.plain import JsonObject
    from chorus.train.backbones.protocol import Backbone
    from chorus.train.config import TrainConfig
    from chorus.train.live import Deltas, Live

Note = Callable[[str], None]
JOURNAL = "calibration.jsonl"
FORMAT = 2  # of its figures: 2 are of smaller batches of dev where rows are few
BASE = ""  # the label of what is measured without any delta


class Measurement(TypedDict):
    """A line of the journal: what was measured. Singles come first, under their labels; then updates, from 0.

    `state` holds what learning goes on from: the numbers, and Adam's two means of their gradients.
    """

    single: str | None
    update: int
    figures: dict[str, list[list[float]]]
    state: list[list[float]]
    loss: float | None  # of the calibration rows, meant over the updates since the last measure


@dataclass(frozen=True)
class Calibrated:
    """What a calibration left, and what it reached on dev."""

    directory: Path
    recipe: Path
    adapter: Path | None
    best_update: int
    updates: int
    facts: JsonObject


def calibrate(
    recipe: str | Path | Mapping[str, object],
    data: Sequence[str | Path],
    dev: Sequence[str | Path],
    output: str | Path,
    settings: Calibration | None = None,
    *,
    test: Sequence[str | Path] = (),
    skip_bad: bool = False,
    restart: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    note: Note = lambda text: None,
) -> Calibrated:
    """Learn the weights of a recipe's models on the rows of `data`, choose them on those of `dev`, write the recipe.

    `recipe` is a task_arithmetic of adapters or fine-tunes; `NAME=MANIFEST` names the domain of a manifest's rows. Test
    rows of the manifests, and those of `test`, must not be among either. The same call after a kill goes on from the
    last measure and ends in the same numbers.

    Raises `RecipeError`, `PlanError`, `DataError`, `CheckpointError`, `OutputError`, and `ChorusError` where a weight
    diverges.
    """
    from chorus.calibrate.entropy import need_odds
    from chorus.calibrate.groups import check_plan, groups_of
    from chorus.calibrate.rows import as_measured, by_task, read_rows, training_config
    from chorus.checkpoints.output_place import refuse_input
    from chorus.train.backbones.choose import load_backbone, takes_audio
    from chorus.train.environment import need_extra
    from chorus.train.fitness import keep_what_fits

    need_extra()
    settings, output = settings or Calibration(), Path(output)
    with quiet_libraries():
        device = claim_device(settings.device)
        seed_everything(settings.seed)
        planned = make_plan(recipe, Options(offline=offline, copy_tokenizer=False))
        check_plan(planned)
        _check_own(settings, planned, groups := groups_of(planned, settings.granularity, settings.bands))
        assert planned.base is not None
        base = planned.models[planned.base].directory
        config = training_config(settings, str(base), *([str(p) for p in paths] for paths in (data, dev, test)))
        needs_audio = takes_audio(config)
        refuse_input(output, [*planned.places, *config.places])
        read = read_rows(config, settings, needs_audio=needs_audio, skip_bad=skip_bad)
        backbone = load_backbone(config, device, texts=[u.row.text for u in read.train])
        backbone.model.to(device)
        keep_what_fits(read, backbone, skip_bad=skip_bad)
        rows = by_task(read, settings, needs_audio=needs_audio, skip_bad=skip_bad)
        settings = as_measured(settings, rows, config)
        if "entropy" in (settings.objective, settings.measure):
            need_odds(backbone)
        for text in [*planned.warnings, *read.notes]:
            note(f"WARNING: {text}")
        for reason, names in read.left_out.items():
            note(f"left out: {len(names)} {reason}")
        job = _Calibrating(settings, planned, groups, rows, backbone, config, output, note)
        return job.run(restart=restart, overwrite=overwrite)


def _check_own(settings: Calibration, plan: Plan, groups: Groups) -> None:
    from chorus.calibrate.groups import labels_of

    labels = labels_of(plan, groups)
    for task, model in settings.own.items():
        if model not in labels:
            raise UsageError(f"{task}={model}: no model of the recipe{nearest(model, labels)}")


@dataclass
class _Calibrating:
    """The parts of one calibration, from a loaded base to the written result."""

    settings: Calibration
    plan: Plan
    groups: Groups
    rows: Rows
    backbone: Backbone
    config: TrainConfig
    output: Path
    note: Note

    def run(self, *, restart: bool, overwrite: bool) -> Calibrated:
        from chorus.calibrate.groups import labels_of
        from chorus.checkpoints.writer import PartialDirectory

        self.labels = labels_of(self.plan, self.groups)
        for task in self.settings.own:
            if task not in self.rows.tasks:
                raise UsageError(f"{task}: no {self.rows.by} of the rows{nearest(task, self.rows.tasks)}")
        # before the first measure: two calibrations of one directory would mix their journals
        partial = PartialDirectory(self.output, resume=True, overwrite=overwrite)
        try:
            self.journal = self._journal(partial.path, restart=restart)
            self._prepare()
            try:
                self._singles()
                self._learn()
            finally:
                self.journal.close()
                self.live.close()
            return self._write(partial)
        except BaseException:
            partial.release()  # the journal stays: the same command goes on from it
            raise

    def _journal(self, directory: Path, *, restart: bool) -> Ledger:
        """The measures of an earlier run of the same calibration, and those to come."""
        settings = self.settings.model_dump(mode="json", exclude={"device"})
        rows = [
            [part, task, str(u.row), u.key() if u.row.path else "", u.row.text, u.row.language, u.row.get("choices")]
            for part, tasks in (("train", self.rows.train), ("dev", self.rows.dev))
            for task, every in tasks.items() for u in every
        ]  # fmt: skip
        mine = fingerprint(format=FORMAT, settings=settings, plan=self.plan.fingerprint(), rows=rows)
        found = Ledger(directory / JOURNAL, mine, Measurement, resume=not restart)
        if found.other is not None:
            raise OutputError(
                f"{directory}: holds another calibration's unfinished work (recipe, rows or settings differ)",
                "choose another directory, or begin again with --restart",
            )
        if found.entries:
            self.note(f"going on from update {max(0, *(entry['update'] for entry in found.entries))}")
        self.fingerprint = mine
        return found

    def _prepare(self) -> None:
        """The model with its deltas, and the numbers to learn."""
        from chorus.calibrate.deltas import Kept, check_bases, deltas_of
        from chorus.calibrate.forms import Weights
        from chorus.calibrate.groups import starting_weights
        from chorus.train.live import Live

        settings, groups = self.settings, self.groups
        check_bases(self.plan)
        start = starting_weights(self.plan, groups)
        if settings.start is not None:
            start = [[settings.start] * len(groups.every) for _ in groups.tasks]
        self.weights = Weights(start, settings.form, magnitude=settings.magnitude, shared=groups.shared)
        self.kept = Kept()
        every = self._noted(
            deltas_of(self.plan, groups, rank=settings.rank, streamed=settings.streamed, kept=self.kept)
        )
        shape = (len(groups.tasks), len(groups.every))
        self.live: Live = Live(self.backbone.model, every, shape, stored=self.plan.variant().tensors)
        if not self.live.reaches:
            raise ChorusError("no model differs from the base: there is nothing to weigh", "check the recipe's models")
        learnt = 1 if groups.shared else self.weights.raw.shape[0] * len(self.changed)
        self.note(
            f"{learnt} numbers for {len(groups.tasks)} models in {len(self.changed)} groups; tasks: "
            + ", ".join(f"{t} ({len(self.rows.train[t])} rows, dev {len(self.rows.dev[t])})" for t in self.rows.tasks)
        )
        if self.kept.energy is not None:
            self.note(f"full fine-tunes at rank {settings.rank}: {self.kept.energy:.1%} of their energy")

    def _noted(self, deltas: Iterator[Deltas]) -> Iterator[Deltas]:
        """The deltas, and in `changed` the groups that they are of: others have a weight, and nothing to learn."""
        self.changed: set[int] = set()
        for one in deltas:
            self.changed.add(one.group)
            yield one

    def _singles(self) -> None:
        """Base and every model alone on dev, which is where recovery is counted from and to."""
        import torch

        known = {str(e["single"]): e["figures"] for e in self.journal.entries if e["single"] is not None}
        shape = (len(self.groups.tasks), len(self.groups.every))
        for i, label in enumerate([BASE, *self.labels]):
            if label not in known:
                alone = torch.zeros(shape, dtype=torch.float64)
                if label != BASE:
                    alone[i - 1] = 1.0
                known[label] = self._measured(alone)
                self._append(Measurement(single=label, update=-1, figures=known[label], state=[], loss=None))
        from chorus.calibrate.recovery import marks_of

        counted = self.settings.measure != "entropy"
        self.marks: dict[str, Marks] = marks_of(known.pop(BASE), known, self.settings.own, counted=counted)
        if not counted:
            self.note(f"chosen by entropy on dev, which has no recovery: the rule ({self.settings.rule}) goes by it")
            return
        without = [task for task, mark in self.marks.items() if not mark.counts]
        if without:
            self.note(
                f"WARNING: no single model betters the base on dev beyond chance for {', '.join(without)}: "
                + ("left out of the rule" if len(without) < len(self.marks) else "the rule goes by what is measured")
            )

    def _append(self, entry: Measurement) -> None:
        self.journal.append(entry)
        self.journal.entries.append(dict(entry))

    def _measured(self, weights: Tensor) -> Figures:
        from chorus.calibrate.measure import measured

        self.live.set(weights)
        return measured(self.backbone, self.config, self.rows.dev, self.settings.measure)

    # ---- learning ----

    def _learn(self) -> None:
        from chorus.calibrate.learning import Learner
        from chorus.calibrate.recovery import shares_of

        settings = self.settings
        shares = shares_of(self.marks, balanced=settings.balance == "recovery")
        learner = Learner(self.weights, self.live, self.backbone, self.config, self.rows, settings, shares)
        measures = self._measures()
        done = int(measures[-1]["update"]) if measures else -1
        if measures:
            learner.restore(measures[-1]["state"], done)
        else:
            self._measure(learner, 0, None)
            done = 0
        # the losses since a measure are not in the journal: updates after the last one are done again, with the same
        losses: list[float] = []
        while done < settings.updates and not self._stopped():
            losses.append(learner.update(done, labels=self.labels, groups=self.groups))
            done += 1
            if done % settings.every == 0 or done == settings.updates:
                self._measure(learner, done, sum(losses) / len(losses))
                losses = []

    def _measures(self) -> list[JsonObject]:
        return [entry for entry in self.journal.entries if entry["single"] is None]

    def _measure(self, learner: Learner, update: int, loss: float | None) -> None:
        figures = self._measured(self.weights.rounded())
        self._append(Measurement(single=None, update=update, figures=figures, state=learner.state(), loss=loss))
        best = self._best()
        self.note(f"update {update}: {self._told(figures)}" + ("; the best so far" if best["update"] == update else ""))

    def _told(self, figures: Figures) -> str:
        from chorus.calibrate.recovery import recoveries, unit_of, value_of

        unit = unit_of(self.settings.measure)
        found = recoveries(figures, self.marks)
        parts = [
            f"{task} {unit * value_of(parts):.3f}" + (f" (recovery {found[task]:z.2f})" if task in found else "")
            for task, parts in figures.items()
        ]
        return f"dev {self.settings.measure} " + ", ".join(parts)

    def _score(self, entry: JsonObject) -> float:
        from chorus.calibrate.recovery import score

        return score(entry["figures"], self.marks, self.settings.rule)

    def _best(self) -> JsonObject:
        """The first of the best measures."""
        # `max` takes the first of equals, so that a later measure must be better to be kept
        return max(self._measures(), key=self._score)

    def _stopped(self) -> bool:
        """Whether so many measures in a row have found nothing better."""
        measures = self._measures()
        since = len(measures) - 1 - measures.index(self._best())
        return since >= self.settings.patience

    # ---- the result ----

    def _write(self, partial: PartialDirectory) -> Calibrated:
        import torch

        from chorus.calibrate import result
        from chorus.checkpoints.sidecar import write_json

        best = self._best()
        with torch.no_grad():
            self.weights.raw.copy_(torch.tensor(best["state"][0], dtype=torch.float64).reshape(self.weights.raw.shape))
        # as they were measured, and not what learning has come to since
        weights = self.weights.rounded()
        factor = self.weights.factor() if self.groups.shared else None
        document = result.calibrated_recipe(self.plan, self.groups, weights, factor)
        # planned anew from what will be written, so that a recipe that says something else is never left
        options = replace(self.plan.options, copy_tokenizer=True, device="cpu")
        planned = result.check_recipe(document, self.groups, weights, options)
        result.write_recipe(partial.path / result.RECIPE, document)
        adapter = None
        if result.of_adapters(self.plan, self.groups):
            for text in result.write_adapter(planned, partial.path / result.ADAPTER, self.settings.energy):
                self.note(f"WARNING: {text}")
            adapter = self.output / result.ADAPTER
        facts = self._facts(best, weights)
        write_json(partial.path / "chorus.json", facts)
        partial.finish((JOURNAL,))
        last = int(self._measures()[-1]["update"])
        return Calibrated(self.output, self.output / result.RECIPE, adapter, int(best["update"]), last, facts)

    def _facts(self, best: JsonObject, weights: Tensor) -> JsonObject:
        from chorus.calibrate.facts import facts_of

        return facts_of(
            self.settings, self.plan, self.groups, self.rows, weights, self.journal.entries, best, self.marks,
            changed=self.changed, fingerprint=self.fingerprint, energy=self.kept.energy,
        )  # fmt: skip
