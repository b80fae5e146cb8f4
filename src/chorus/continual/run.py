"""One more model into a merge made earlier: chosen, merged, measured; killed and given again, it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.output_place import PARTIAL, refuse_input
from chorus.continual.facts import KEY, ContinualFacts, plain, read_facts, write_facts
from chorus.continual.settings import GRID, Continuing
from chorus.errors import ChorusError, UsageError
from chorus.files import expanded
from chorus.identity import fingerprint
from chorus.plain import exact
from chorus.progress import Progress
from chorus.runtime import quiet_libraries

if TYPE_CHECKING:
    from chorus.checkpoints.model import OpenOptions
    from chorus.checkpoints.open import Source
    from chorus.continual.sets import MeasuredSet, Measuring
    from chorus.continual.state import Added, Merged
    from chorus.merge.options import Options
    from chorus.plain import JsonObject

Note = Callable[[str], None]
Sets = dict[str, "MeasuredSet"]
RESULTS = ".evaluations"  # beside a result: in it they would be no files of a model


@dataclass(frozen=True)
class Continued:
    """A merge with one more model in it. `written` tells in a clause what was written; empty where it was there."""

    directory: Path
    facts: ContinualFacts
    written: str = ""
    warnings: list[str] = field(default_factory=list)

    def document(self) -> JsonObject:
        """For JSON: the facts, each model's share, and how the merge stands on each set."""
        from chorus.continual.figures import standings, summary

        told: JsonObject = {"directory": str(self.directory), "models": self.facts.count, "shares": self.facts.shares()}
        sets = {
            one.name: {
                "model": one.since, "now": one.now.value, "recovery": one.recovery,
                "best_before": one.best_before.value if one.best_before else None, "forgetting": one.forgetting,
                "recovery_before": one.recovery_before,
            }
            for one in standings(self.facts)
        }  # fmt: skip
        return {**told, "sets": sets, **summary(self.facts), KEY: plain(self.facts), "warnings": self.warnings}


def continual(
    state: Source,
    new: Source,
    output: str | Path,
    settings: Continuing | None = None,
    *,
    name: str = "",
    base: Source | None = None,
    count: int | None = None,
    dev: Sequence[str | Path] = (),
    tests: Sequence[str | Path] = (),
    measuring: Measuring | None = None,
    results: str | Path | None = None,
    options: Options | None = None,
    progress: Progress = lambda done, total: None,
    bars: Callable[[str], AbstractContextManager[Progress]] = lambda label: nullcontext(lambda done, total: None),
    note: Note = lambda text: None,
) -> Continued:
    """Write into `output` the merge `state` with one more model, `new`, in it; measure it on the sets of `tests`.

    `state` is what an earlier call has written, a merge of `chorus merge` (with its `base`), or the base to begin with;
    of what does not say it `count` tells how many models are in it. `name` is what the new model is called; a set of
    `tests` (`NAME=MANIFEST`) belongs to the model of its name. `dev` sets choose the weight of `weighted`.

    The same call after a kill goes on, and with further `tests` measures those. Raises `UsageError`, `MisfitError`,
    `PlanError`, `DataError`, `CheckpointError`, `OutputError`.

    >>> import chorus
    >>> first = chorus.continual("whisper-small", "radio-lora", "one")  # doctest: +SKIP
    >>> chorus.continual("one", "phone-lora", "two", tests=["phone-lora=phone.csv"])  # doctest: +SKIP
    Continued(directory=PosixPath('two'), ...)
    """
    from chorus.checkpoints.model import OpenOptions
    from chorus.continual.sets import Measuring, read_sets, refuse_shared
    from chorus.continual.state import on_base, read_new, read_state
    from chorus.merge.options import Options

    settings, measuring, options = settings or Continuing(), measuring or Measuring(), options or Options()
    output = expanded(output)
    _check_dev(settings, bool(dev))
    measuring.check()
    opening = OpenOptions(options.allow_pickle, options.offline, options.cache_dir)
    with quiet_libraries():
        begun = read_state(state, base, count, opening)
        named = base is not None or begun.reference is None or on_base(state, None, opening).adapter is None
        added = read_new(new, name, begun, opening, explicit=named)
        places = [*begun.base_model.places, *added.model.places, *(begun.model.places if begun.model else [])]
        refuse_input(output, places)
        # all sets before any work: a wrong row must not be found after an hour of merging
        chosen_on, measured = read_sets(dev, "dev", measuring), read_sets(tests, "test", measuring)
        refuse_shared(chosen_on, measured)
        place = expanded(results) if results is not None else output.with_name(output.name + RESULTS)
        job = _Stage(begun, added, settings, measuring, options, opening, output, place, note)
        return job.run(chosen_on, measured, progress, bars)


def _check_dev(settings: Continuing, dev: bool) -> None:
    if dev and settings.method != "weighted":
        raise UsageError(f"dev rows choose a weight, and {settings.method} has none to choose", "--method weighted")
    if settings.method == "weighted" and not dev and len(settings.weight) != 1:
        given = "no weight" if not settings.weight else f"{len(settings.weight)} weights"
        raise UsageError(f"weighted: {given}, and no dev rows to choose on", "one --weight, or --dev NAME=MANIFEST")


@dataclass(frozen=True)
class _Stage:
    """The parts of one stage, from the opened models to the measured result."""

    begun: Merged
    added: Added
    settings: Continuing
    measuring: Measuring
    options: Options
    opening: OpenOptions
    output: Path
    place: Path
    note: Note

    def run(
        self, dev: Sets, tests: Sets, progress: Progress, bars: Callable[[str], AbstractContextManager[Progress]]
    ) -> Continued:
        from chorus.continual.figures import Evaluating, measure_stage

        asked = self._asked(dev)
        facts, written, warnings = self._found(asked), "", list[str]()
        if facts is None:
            facts, written, warnings = self._merge(dev, asked, progress)
        else:
            if not facts.result:  # killed between the last two writes
                facts = facts.model_copy(update={"result": self._content(facts)})
                write_facts(self.output, facts)
            self.note(f"{self.output}: merged already")
        if tests:
            by = Evaluating(self.place, self.measuring, self.opening, bars, self.options.overwrite)
            facts = measure_stage(facts, self._result(facts), self.begun, self.added, tests, by)
            write_facts(self.output, facts)
        return Continued(self.output, facts, written, warnings)

    def _result(self, facts: ContinualFacts) -> Source:
        from dataclasses import replace

        from chorus.checkpoints.reference import Reference

        written = Reference(str(self.output))
        return written if facts.stages[-1].form == "model" else replace(self.begun.base, adapter=written)

    def _asked(self, dev: Sets) -> str:
        """What the result depends on: models by content, settings, and the rows that a weight is chosen on."""
        from chorus.continual.state import content_of, identity_of

        # an adapter's scale stands in its config: with another it is another model
        scaled = [content_of(m) for m in (self.begun.model, self.added.model) if m is not None and m.adapter_paths]
        # not the weight that dev chose: the same command must be known again before dev is decoded anew
        on = {name: one.asked(self.measuring.normaliser) for name, one in dev.items()}
        return fingerprint(
            state=self.begun.identity, base=self.begun.facts.base.identity,
            new=identity_of(self.added.model), name=self.added.name, settings=self.settings.model_dump(), dev=on,
            count=self.begun.facts.count, scaled=scaled,
        )  # fmt: skip

    def _found(self, asked: str) -> ContinualFacts | None:
        """What a run of the same has left, merged if not yet measured."""
        from chorus.checkpoints.lineage import facts_in

        # whoever says --overwrite wants it made anew, even from the same
        if self.options.overwrite or KEY not in (told := facts_in(self.output)):
            return None
        facts = read_facts(told[KEY], self.output)
        return facts if facts.asked == asked else None

    def _merge(self, dev: Sets, asked: str, progress: Progress) -> tuple[ContinualFacts, str, list[str]]:
        from dataclasses import replace

        from chorus.continual.stage import Multipliers, facts_after, merge_stage, opcm_stage, recipe_of_stage
        from chorus.continual.state import identity_of

        settings, begun, added = self.settings, self.begun, self.added
        count, scale, more = begun.facts.count, 1.0, dict[str, object]()
        # before dev is decoded, which may take hours
        self._refuse_taken()
        if settings.method == "fta":
            weights = Multipliers.of_mean(count)
        elif settings.method == "weighted":
            share, tried = self._share(dev)
            weights = Multipliers.of_share(share, settings.alpha, count)
            more = {"dev": tried, "chosen": exact(share) if tried else ""}
        else:
            weights, scale, norm = opcm_stage(begun, added, settings, self.options)
            more = {"protect": settings.protect, "scale": scale, "norm": norm}
        facts = facts_after(begun, added, settings, weights, identity_of(added.model), asked, **more)
        unfinished = self.output.with_name(self.output.name + PARTIAL).exists() and not self.options.overwrite
        # of a model alone: adapters are written in one go
        resume = unfinished and facts.stages[-1].form == "model"
        recipe = recipe_of_stage(begun, added, weights, settings, scale)
        warnings, written = merge_stage(recipe, facts, self.output, replace(self.options, resume=resume), progress)
        # behind the merge: what is read again is what was written, whatever a type has rounded
        facts = facts.model_copy(update={"result": self._content(facts)})
        write_facts(self.output, facts)
        return facts, written, [*added.warnings, *warnings]

    def _content(self, facts: ContinualFacts) -> str:
        from chorus.checkpoints.open import open_model
        from chorus.continual.state import content_of

        return content_of(open_model(self._result(facts), self.opening))

    def _refuse_taken(self) -> None:
        from chorus.errors import OutputError

        if not self.options.overwrite and self.output.is_dir() and any(self.output.iterdir()):
            raise OutputError(
                f"{self.output}: holds something else than this merge of these models",
                "choose another directory, or pass --overwrite",
            )

    def _share(self, dev: Sets) -> tuple[float, dict[str, dict[str, float | None]]]:
        """The weight of the earlier merge, as it was said or as dev chooses it."""
        from chorus.continual.chosen import choose_share
        from chorus.continual.stage import Multipliers, recipe_of_stage

        if not dev or self.begun.reference is None:
            return (self.settings.weight or [0.0])[0], {}
        grid = self.settings.weight or GRID
        recipes = {
            share: recipe_of_stage(
                self.begun, self.added, Multipliers.of_share(share, self.settings.alpha, 1), self.settings
            )
            for share in grid
        }
        found, tried = choose_share(
            recipes, dev, self.place / "dev", self.measuring, self.settings.rule, lambda label: self.note(label)
        )
        if not any(value is not None for one in tried.values() for value in one.values()):
            raise ChorusError("no share has a figure on dev", "give dev rows with texts")
        self.note(f"the earlier merge counts {found:g}, chosen on {', '.join(dev)}")
        return found, tried
