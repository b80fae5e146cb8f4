"""The sets that a merge is measured on: NAME=MANIFEST, each of one task, dev and test apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus.data.choices import TEXT, needs_of, task_named
from chorus.data.manifest import Manifest, named_manifest, read_manifest
from chorus.data.split import SPLIT_NAMES
from chorus.errors import DataError, MisfitError, UsageError
from chorus.evaluate.run import NORMALISER
from chorus.identity import fingerprint
from chorus.runtime import pick_device
from chorus.tasks.normalise import normaliser as known_normaliser
from chorus.tasks.registry import TASKS
from chorus.train.rows import leaked, shown
from chorus.transcribe.decoding import Decoding, check_language
from chorus.transcribe.test_sets import TestSet, load_test_set


@dataclass(frozen=True)
class Measuring:
    """How figures come about: decoding, counting, where. `task` None: each set's own, as its rows say, else asr."""

    decoding: Mapping[str, object] = field(default_factory=dict)
    task: str | None = None
    normaliser: str = NORMALISER
    device: str = "auto"
    limit: int | None = None
    skip_bad: bool = False

    def check(self) -> None:
        """`UsageError` or `RecipeError` for what could not be carried out, before any work."""
        known_normaliser(self.normaliser)
        check_language(self.of(self.task or "asr").language)
        pick_device(self.device)

    def of(self, task: str) -> Decoding:
        """How a set of a task is decoded."""
        return Decoding.model_validate({**self.decoding, "task": task})


@dataclass(frozen=True)
class MeasuredSet:
    """A set under its name, and how it is decoded."""

    name: str
    test: TestSet
    decoding: Decoding

    def asked(self, normaliser: str) -> str:
        """What a figure depends on besides the model: two of one key can be compared."""
        # how many are decoded at once changes no text
        told = self.decoding.model_dump(mode="json", exclude={"batch_size"})
        return fingerprint(test=self.test.fingerprint, decoding=told, normaliser=normaliser)


def read_sets(given: Sequence[str | Path], split: str, measuring: Measuring) -> dict[str, MeasuredSet]:
    """The sets by name; of a manifest that is divided the rows of `split`, of one that is not all of them."""
    found: dict[str, MeasuredSet] = {}
    for text in map(str, given):
        name, path = named_manifest(text)
        name = name or Path(path).stem
        if name in found:
            raise UsageError(f'two {split} sets are called "{name}"', "name them: NAME=MANIFEST")
        manifest = read_manifest(path, needs=())
        rows = manifest.rows
        # dev is called validation elsewhere, and test eval
        names = sorted({r.split for r in rows if r.split in SPLIT_NAMES[split]})
        if any(r.split for r in rows) and not names:
            raise MisfitError(
                f"{path}: none of its rows is of split {split}", f"give rows of {split}, or a manifest of them alone"
            )
        task = measuring.task or task_named(rows, path)
        decoding = measuring.of(task)
        _refuse_without(manifest, path, decoding.task, told=measuring.task is not None)
        where = {"split": names} if names else {}
        test = load_test_set(
            [path], split="all", where=where, limit=measuring.limit, skip_bad=measuring.skip_bad, task=decoding.task
        )  # fmt: skip
        found[name] = MeasuredSet(name, test, decoding)
    return found


def _refuse_without(manifest: Manifest, path: str, task: str, *, told: bool) -> None:
    """`DataError` for a column that the task needs and the manifest lacks, with what this command has for it."""
    known = {*manifest.columns, *manifest.renamed}
    for column in needs_of(TASKS.get(task)):
        if column not in known:
            other = "say what it is of: --task (chorus tasks), or a column task"
            hint = other if column == TEXT and not told else f"call it {column} in the manifest"
            raise DataError(f"{path}: no column {column}, which the task {task} needs", hint)


def refuse_shared(dev: Mapping[str, MeasuredSet], test: Mapping[str, MeasuredSet]) -> None:
    """`DataError` where a weight would be chosen on what it is then judged by."""
    chosen = [u for one in dev.values() for u in one.test.utterances.values()]
    for name, one in test.items():
        # by cut and by the bytes of copies, as training looks for leaks
        found = leaked(chosen, list(one.test.utterances.values()))
        if found:
            raise DataError(
                f"{len(found)} rows of the test set {name} are dev rows too: {shown(found)}",
                "choose the weight on other rows: chorus data split keeps speakers apart",
            )
