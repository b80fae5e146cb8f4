"""The whole line: speech, trainings, a search on dev, the selection, the test, ranks, the report; each found again.

What it writes is told in `places.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import explained, write_text
from chorus.data.choices import TASK
from chorus.data.manifest import write_manifest
from chorus.errors import ChorusError
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import refuse_all_failed
from chorus.experiment.calibrations import run_calibrations
from chorus.experiment.chosen import criterion_of, dev_rates, fingerprint_of
from chorus.experiment.inputs import check_inputs
from chorus.experiment.load import load_experiment
from chorus.experiment.overfitting import overfitting_grid
from chorus.experiment.places import BASE, JOINT, SELECTION, held_out_path, recipe_path, reference_of, template
from chorus.experiment.progress import Steps
from chorus.experiment.publish import publish
from chorus.experiment.ranks import delta_ranks
from chorus.experiment.results import collect, write_results
from chorus.experiment.rows import dev_sets, held_out_sets, refuse_overlap, refuse_same_sounds, write_divided
from chorus.experiment.schema import Experiment
from chorus.experiment.speech import speak
from chorus.experiment.steps import Outcome, counts, curves_of, grids_of, systems_of
from chorus.experiment.trainings import base_job, jobs_of, parallel, run_trainings
from chorus.merge.runs.resident import Resident
from chorus.progress import Told
from chorus.search.grids import Setting
from chorus.search.recipes import recipe_of
from chorus.search.selection import Chosen, best_of, choose, selection_facts
from chorus.search.trials import Trials
from chorus.train.environment import need_extra
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.systems import folder_of
from chorus.transcribe.test_sets import TestSet

Note = Callable[[str], None]


def experiment(
    source: Experiment | str | Path | Mapping[str, object],
    *,
    show: Told = lambda done, total, told: None,
    note: Note = lambda text: None,
) -> Outcome:
    """Run an experiment file; after a kill, or a change of the file, only what is missing is done again.

    Raises `RecipeError` for everything wrong with the file before the first training, `DataError` for rows,
    `MissingExtraError` where training is not installed.
    """
    need_extra()
    return _Runner(source if isinstance(source, Experiment) else load_experiment(source), show, note).run()


class _Runner:
    """One run: the experiment, and where it is in its steps."""

    def __init__(self, experiment: Experiment, show: Told, note: Note) -> None:
        self.experiment, self.note, self.out = experiment, note, experiment.output_dir
        self.steps = Steps(counts(experiment), show, side_by_side=parallel(experiment) or 1)
        self.by = criterion_of(experiment)
        self.chosen: dict[str, Chosen] = {}

    def run(self) -> Outcome:
        experiment = self.experiment
        self._prepare()
        # before the trainings: a domain without dev rows would be noticed hours later
        dev = dev_sets(experiment)
        self._train()
        run_calibrations(experiment, self.note, lambda name: self.steps.ended("calibrate", name))
        self._choose(dev)
        # not a line earlier: nothing that is chosen can have seen a test recording
        test = held_out_sets(experiment)
        # reads the files, which `refuse_overlap` may not before the selection
        refuse_same_sounds(dev, test)
        for task, one in test.items():
            rows = [u.row for u in one.utterances.values()]
            if len(test) > 1:  # whoever reads one of several files must know of which task it is
                rows = [replace(row, extra={**row.extra, TASK: task}) for row in rows]
            write_manifest(rows, held_out_path(experiment, task))
        # before the test: a kill in it leaves everything that is needed to run a merge by hand
        self._write_recipes(self.chosen)
        outcome = Outcome(self.out, best_of(self.chosen, best=self.by.best), self.chosen)
        for seed in experiment.seeds:
            self._test(outcome, test, seed)
        self._keep(outcome)
        ranks = delta_ranks(experiment, self.chosen, lambda label: self.steps.ended("ranks", label))
        grid = overfitting_grid(experiment, lambda label: self.steps.ended("overfitting", label))
        write_results(collect(experiment, outcome, ranks, grid), self.out)
        publish(self.out)
        self.steps.ended("report")
        return outcome

    def _prepare(self) -> None:
        """Rows: spoken or divided where the file says so, and none both learnt from and reported on."""
        experiment = self.experiment
        with explained(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        if experiment.data.synth:
            speak(experiment.data.synth, self.out / "synth", self.note)
        if experiment.data.split:
            write_divided(experiment)
        check_inputs(experiment)
        refuse_overlap(experiment)

    def _train(self) -> None:
        first = base_job(self.experiment)
        if first is not None:
            # by itself and to its end: the others start from what it writes
            run_trainings(self.experiment, [first], self.note, lambda: self.steps.ended("train", BASE))
        run_trainings(self.experiment, jobs_of(self.experiment), self.note, lambda: self.steps.ended("train"))

    def _choose(self, dev: Mapping[str, TestSet]) -> None:
        """Evaluate every system and setting on dev, take the best of each method, and write it down."""
        experiment, grids = self.experiment, grids_of(self.experiment)
        rates: dict[tuple[str, int], float] = {}
        counted: dict[str, list[str]] = {}
        for seed in experiment.seeds:
            found = dev_rates(experiment, self._measured(dev, seed))
            counted[str(seed)] = found.counted
            rates |= {(label, seed): rate for label, rate in found.rates.items()}
        self.chosen = choose(grids, rates, experiment.seeds, best=self.by.best)
        if all(math.isnan(one.dev) for one in self.chosen.values()):
            raise ChorusError(
                "no merge has a rate on dev: every decode of every setting failed, or there is no reference",
                f"see {self.out / 'dev'}",
            )
        facts = selection_facts(
            grids, self.chosen, rates, experiment.seeds, by=self.by, over=experiment.selection.over,
            normaliser=experiment.normaliser, dev_set=fingerprint_of(dev),
        )  # fmt: skip
        write_json(self.out / SELECTION, {**facts, "counted": counted})
        left = [name for name in experiment.domains if any(name not in one for one in counted.values())]
        if left:
            self.note(f"not counted, as no specialist surely gains there on dev: {', '.join(left)}")
        best = self.chosen[facts["best"]]
        self.note(f"chosen on dev: {best.setting.label}, {self.by.title} {best.dev:.2f}")

    def _measured(self, dev: Mapping[str, TestSet], seed: int) -> dict[str, list[Evaluation]]:
        """The evaluations of every system and setting of a seed, one a task."""
        found: dict[str, list[Evaluation]] = {}
        # all settings of a seed in one go: its models stay loaded, and what was decomposed is kept
        resident = Resident()
        for task, test in dev.items():
            with self._trials("dev", task, test, seed, resident) as trials:
                for label in systems_of(self.experiment):
                    found.setdefault(label, []).append(self._model(trials, label, seed))
                for setting in (s for settings in grids_of(self.experiment).values() for s in settings):
                    found.setdefault(setting.label, []).append(self._merge(trials, setting, seed))
        return found

    def _trials(self, kind: str, task: str, test: TestSet, seed: int, resident: Resident) -> Trials:
        experiment = self.experiment
        place = self.out / kind / f"seed-{seed}"
        return Trials(
            test, place / task if len(experiment.tasks) > 1 else place, decoding=experiment.decoding_of(task),
            normaliser=experiment.normaliser, conditions=[CLEAN] if kind == "dev" else experiment.conditions,
            device=experiment.device, ended=lambda label: self.steps.ended(kind, label), resident=resident,
        )  # fmt: skip

    def _model(self, trials: Trials, label: str, seed: int) -> Evaluation:
        """The base, the joint model, or the specialist of a domain."""
        role = label if label in (BASE, JOINT) else "specialist"
        home = {"domain": label} if role == "specialist" else {}
        return trials.model(reference_of(self.experiment, label, seed), label=label, role=role, home=home)

    def _merge(self, trials: Trials, setting: Setting, seed: int, *, label: str = "") -> Evaluation:
        return trials.merge(template(self.experiment, seed, setting), setting, label=label)

    def _test(self, outcome: Outcome, tests: Mapping[str, TestSet], seed: int) -> None:
        resident = Resident()
        for task, test in tests.items():
            with self._trials("test", task, test, seed, resident) as trials:
                found = [self._model(trials, label, seed) for label in systems_of(self.experiment)]
                for name, one in outcome.chosen.items():
                    found.append(self._merge(trials, one.setting, seed, label=name))
                    refuse_all_failed(found[-1])
                outcome.test.setdefault(task, {})[seed] = found
                curves = outcome.curves.setdefault(task, {})
                for name, curve in curves_of(self.experiment, outcome.chosen).items():
                    curves.setdefault(name, {})[seed] = [self._merge(trials, s, seed) for s in curve.settings]

    def _write_recipes(self, chosen: Mapping[str, Chosen]) -> None:
        named: dict[str, Setting] = {name: one.setting for name, one in chosen.items()}
        curves = curves_of(self.experiment, chosen).values()
        named |= {folder_of(setting.label): setting for curve in curves for setting in curve.settings}
        for seed in self.experiment.seeds:
            for name, setting in named.items():
                path = recipe_path(self.experiment, seed, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                recipe = recipe_of(template(self.experiment, seed, setting), setting)
                write_text(path, yaml.safe_dump(recipe, sort_keys=False))

    def _keep(self, outcome: Outcome) -> None:
        """Write the merges that were asked for, of the first seed."""
        from chorus.merge.api import merge
        from chorus.merge.options import Options

        kept = {"none": [], "best": [outcome.best], "all": list(outcome.chosen)}[self.experiment.keep]
        for name in kept:
            recipe = recipe_path(self.experiment, self.experiment.seeds[0], name).read_text(encoding="utf-8")
            # the note lies beside the model, not in it: what is published is the model's directory
            final, done = self.out / "merged" / name, self.out / "merged" / f"{name}.yml"
            # by the recipe's text: another setting chosen under the same name is merged again
            if final.exists() and done.exists() and done.read_text(encoding="utf-8") == recipe:
                continue
            final.parent.mkdir(parents=True, exist_ok=True)
            merge(str(recipe_path(self.experiment, self.experiment.seeds[0], name)), final, Options(overwrite=True))
            write_text(done, recipe)
