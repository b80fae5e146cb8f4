"""The whole line: speech, trainings, a sweep on dev, the selection, the test, the report; each step found again.

OUTPUT/
  models/          base (if trained here), seed-N/DOMAIN, seed-N/joint
  dev/ test/       evaluations: seed-N/SYSTEM
  selection.json   what was chosen on dev, written before a test recording is opened
  recipes/         the chosen merges, as `chorus merge` takes them
  tables/ plots/   the results
  report.html      all of it in one page
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from chorus.checkpoints.writer import explained, write_text
from chorus.data.manifest import write_manifest
from chorus.experiment.config import Experiment, Setting, load_experiment
from chorus.experiment.progress import Show, Steps
from chorus.experiment.publish import publish
from chorus.experiment.rows import dev_set, groups_of, refuse_overlap, refuse_same_sounds, test_set, write_divided
from chorus.experiment.select import Chosen, macro_rate, select, write_selection
from chorus.experiment.steps import Outcome, counts, curves_of, settings_of, systems_of
from chorus.experiment.sweep import Listener, recipe_of
from chorus.experiment.trainings import base_job, jobs_of, parallel, run_trainings
from chorus.identity import file_hash
from chorus.train.environment import need_extra
from chorus.transcribe.systems import folder_of

Note = Callable[[str], None]


def experiment(
    source: Experiment | str | Path | Mapping[str, Any],
    *,
    show: Show = lambda done, total, told: None,
    note: Note = lambda text: None,
) -> Outcome:
    """Run an experiment file; after a kill, or a change of the file, only what is missing is done again.

    Raises `RecipeError` for everything wrong with the file before the first training, `DataError` for rows,
    `MissingExtraError` where training is not installed.
    """
    need_extra()
    made = source if isinstance(source, Experiment) else load_experiment(source)
    return _Run(made, show, note).run()


class _Run:
    """The state of one run."""

    def __init__(self, made: Experiment, show: Show, note: Note) -> None:
        self.made, self.note = made, note
        self.out = made.output_dir
        self.settings = settings_of(made)
        self.steps = Steps(counts(made), show, side_by_side=parallel(made) or 1)

    def run(self) -> Outcome:
        made = self.made
        with explained(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        if made.data.synth:
            self._speak(made.data.synth)
        if made.data.split:
            write_divided(made)
        refuse_overlap(made)
        dev = dev_set(made)
        self._train()
        rates = self._sweep(dev)
        chosen = select(made, self.settings, rates)
        write_selection(self.out, made, self.settings, chosen, rates, dev.fingerprint)
        best = min(chosen, key=lambda name: chosen[name].dev)
        self.note(f"chosen on dev: {chosen[best].setting.label}, {chosen[best].dev:.2f} %")
        test = test_set(made)
        refuse_same_sounds(dev, test)
        write_manifest([u.row for u in test.utterances.values()], self.out / "test.csv")
        self._write_recipes(chosen)
        outcome = Outcome(self.out, self.out / "report.html", best, chosen)
        for seed in made.seeds:
            self._test(outcome, test, seed)
        self._keep(outcome)
        publish(made, outcome, groups_of(made))
        self.steps.ended("report")
        return outcome

    def _speak(self, recipe: str) -> None:
        """Synthetic speech, once for a recipe."""
        from chorus.data.synth import synthesise

        place = self.out / "synth"
        mark, done = file_hash(Path(recipe)), place / "done"
        if done.exists() and done.read_text() == mark:
            return
        self.note(f"speaking {recipe}")
        synthesise(recipe, place)
        write_text(done, mark)

    def _train(self) -> None:
        made = self.made
        first = base_job(made)
        if first is not None:
            run_trainings(made, [first], self.note, lambda: self.steps.ended("train", "base"))
        run_trainings(made, jobs_of(made), self.note, lambda: self.steps.ended("train"))

    def _sweep(self, dev: Any) -> dict[tuple[str, int], float]:
        """Every system's and setting's dev error rate."""
        made, rates = self.made, {}
        domains = list(groups_of(made)) if made.selection.over == "all" else list(made.domains)
        for seed in made.seeds:
            listener = Listener(
                made, seed, dev, self.out / "dev" / f"seed-{seed}", conditions=["clean"],
                ended=lambda label: self.steps.ended("dev", label),
            )  # fmt: skip
            try:
                for label in systems_of(made):
                    rates[label, seed] = macro_rate(listener.model(label), domains)
                for points in self.settings.values():
                    for setting in points:
                        rates[setting.label, seed] = macro_rate(listener.merge(setting), domains)
            finally:
                listener.close()
        return rates

    def _test(self, outcome: Outcome, test: Any, seed: int) -> None:
        listener = Listener(
            self.made, seed, test, self.out / "test" / f"seed-{seed}", conditions=self.made.conditions,
            ended=lambda label: self.steps.ended("test", label),
        )  # fmt: skip
        try:
            found = [listener.model(label) for label in systems_of(self.made)]
            found += [listener.merge(one.setting, label=name) for name, one in outcome.chosen.items()]
            outcome.test[seed] = found
            for name, points in curves_of(self.made, outcome.chosen).items():
                outcome.curves.setdefault(name, {})[seed] = [listener.merge(p) for p in points]
        finally:
            listener.close()

    def _write_recipes(self, chosen: Mapping[str, Chosen]) -> None:
        for seed in self.made.seeds:
            place = self.out / "recipes" / f"seed-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            for name, one in chosen.items():
                self._write_recipe(place / f"{name}.yml", one.setting, seed)
            for points in curves_of(self.made, chosen).values():
                for setting in points:
                    self._write_recipe(place / f"{folder_of(setting.label)}.yml", setting, seed)

    def _write_recipe(self, path: Path, setting: Setting, seed: int) -> None:
        write_text(path, yaml.safe_dump(recipe_of(self.made, setting, seed), sort_keys=False))

    def _keep(self, outcome: Outcome) -> None:
        """Write the merges that were asked for, of the first seed."""
        from chorus.merge.api import merge

        names: Sequence[str] = {"none": [], "best": [outcome.best], "all": list(outcome.chosen)}[self.made.keep]
        for name in names:
            recipe = self.out / "recipes" / f"seed-{self.made.seeds[0]}" / f"{name}.yml"
            final = self.out / "merged" / name
            mark = self.out / "merged" / f"{name}.yml"
            if final.exists() and mark.exists() and mark.read_text() == recipe.read_text():
                continue
            final.parent.mkdir(parents=True, exist_ok=True)
            from chorus.merge.options import Options

            merge(str(recipe), final, Options(overwrite=True))
            write_text(mark, recipe.read_text(encoding="utf-8"))
