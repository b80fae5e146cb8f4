"""From an experiment's domains to training sources, and to the rows of dev and test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from chorus.checkpoints.writer import write_text
from chorus.data.choices import labels_of, needs_of, of_task, with_choices
from chorus.data.manifest import Row, manifest_text, read_manifest, select
from chorus.data.split import SPLIT_NAMES, split_rows
from chorus.data.utterance import recordings_of, sound_key
from chorus.errors import DataError, MisfitError
from chorus.evaluate.comparison import Group
from chorus.experiment.schema import DomainRows, Experiment
from chorus.tasks.chosen import CHOICES
from chorus.tasks.protocol import Chooses
from chorus.tasks.registry import TASKS
from chorus.transcribe.test_sets import TestSet, of_rows

SHOWN = 3
SEEN = ("dev", "train")


def manifest_of(experiment: Experiment, domain: DomainRows) -> str:
    """Where a domain's rows are; of synthetic speech, or of another split, where they will be."""
    if domain.manifest:
        return domain.manifest
    if experiment.data.split:
        return str(experiment.output_dir / "split" / "manifest.csv")
    return experiment.data.manifest or str(experiment.output_dir / "synth" / "manifest.csv")


def read_rows(experiment: Experiment, domain: DomainRows) -> list[Row]:
    """The task's rows of the manifest that a domain's rows are in, with the experiment's own split where it has one."""
    columns, place = domain.columns or experiment.data.columns, domain.audio_dir or experiment.data.audio_dir
    task = TASKS.get(experiment.task_of(domain))
    if domain.manifest or not experiment.data.split:
        found = read_manifest(
            manifest_of(experiment, domain), columns=columns, audio_dir=place, needs=needs_of(task)
        ).rows  # fmt: skip
    else:
        found = divided(experiment)
    return of_task(found, task)


def divided(experiment: Experiment) -> list[Row]:
    """The shared manifest's rows with the experiment's own split."""
    data, told = experiment.data, experiment.data.split
    assert told is not None
    assert data.manifest is not None
    needs = sorted(set.intersection(*(set(needs_of(task)) for task in experiment.tasks.values())))
    rows = read_manifest(data.manifest, columns=data.columns, audio_dir=data.audio_dir, needs=needs).rows
    return split_rows(rows, dev=told.dev, test=told.test, by=told.by, stratify=told.stratify, seed=told.seed)


def write_divided(experiment: Experiment) -> None:
    """Write the manifest with the experiment's own split where trainings read it."""
    place = experiment.output_dir / "split" / "manifest.csv"
    text = manifest_text(divided(experiment), place)
    if not place.exists() or place.read_text(encoding="utf-8") != text:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)


def source_of(experiment: Experiment, name: str, domain: DomainRows) -> dict[str, object]:
    """The training source of a domain, as `chorus train` takes it."""
    found = {
        "manifest": manifest_of(experiment, domain), "where": domain.where, "domain": name,
        "columns": domain.columns or experiment.data.columns, "language": domain.language or experiment.data.language,
    }  # fmt: skip
    place = domain.audio_dir or experiment.data.audio_dir
    more = {"audio_dir": place, "task": domain.task}
    return {**found, **{key: value for key, value in more.items() if value}}


def dev_sources(experiment: Experiment, domains: Mapping[str, DomainRows]) -> list[dict[str, object]]:
    """What a training is measured on: the domains' dev rows."""
    found = []
    for name, domain in domains.items():
        source = source_of(experiment, name, domain)
        # a manifest of dev rows needs no split: all of it is dev
        found.append({**source, "manifest": domain.dev} if domain.dev else {**source, "split": "dev"})
    return found


def groups_of(experiment: Experiment, task: str = "") -> dict[str, Group]:
    """Each cell's group; of a task its own cells alone."""
    kinds: list[tuple[Group, Mapping[str, DomainRows]]] = [
        ("in-domain", experiment.domains), ("out-of-domain", experiment.tests.out_of_domain),
        ("other-language", experiment.tests.other_language),
    ]  # fmt: skip
    return {
        name: group for group, domains in kinds for name, one in domains.items()
        if task in ("", experiment.task_of(one))
    }  # fmt: skip


def _domains(experiment: Experiment, groups: Iterable[str]) -> dict[str, DomainRows]:
    kinds = {
        "in-domain": experiment.domains, "out-of-domain": experiment.tests.out_of_domain,
        "other-language": experiment.tests.other_language,
    }  # fmt: skip
    return {name: domain for group in groups for name, domain in kinds[group].items()}


def rows_of(experiment: Experiment, name: str, domain: DomainRows, split: str) -> list[Row]:
    """The train, dev or test rows of a domain, named after it. A manifest without splits has no dev rows."""
    own = {"dev": domain.dev, "test": domain.test}.get(split)
    every = read_rows(experiment, domain.model_copy(update={"manifest": own}) if own else domain)
    rows = select(every, domain.where)
    if domain.split != "all" or split != "test":
        wanted = {domain.split} if domain.split and split == "test" else set(SPLIT_NAMES[split])
        # of the whole manifest, before the domain's own rows are taken: a domain may have none of a split
        divided_already = any(r.split for r in every)
        whole = own or split != "dev"
        rows = [r for r in rows if r.split in wanted] if divided_already else rows if whole else []
    return [replace(r, domain=name, language=r.language or domain.language or experiment.data.language) for r in rows]


def dev_sets(experiment: Experiment) -> dict[str, TestSet]:
    """What settings are chosen on, by task. `DataError` where a domain has no dev rows."""
    over = ("in-domain", "out-of-domain", "other-language") if experiment.selection.over == "all" else ("in-domain",)
    rows: dict[str, list[Row]] = {}
    for name, domain in _domains(experiment, over).items():
        found = rows_of(experiment, name, domain, "dev")
        if not found and name in experiment.domains:
            raise MisfitError(f"{name}: no dev rows to choose on", "give rows of split dev, or dev: MANIFEST")
        rows.setdefault(experiment.task_of(domain), []).extend(found)
    return _sets(experiment, rows)


def held_out_sets(experiment: Experiment) -> dict[str, TestSet]:
    """What is told in the end, by task."""
    rows: dict[str, list[Row]] = {}
    for name, domain in _domains(experiment, ("in-domain", "out-of-domain", "other-language")).items():
        found = rows_of(experiment, name, domain, "test")
        if not found:
            raise MisfitError(f"{name}: no test rows", "give rows of split test, or test: MANIFEST")
        rows.setdefault(experiment.task_of(domain), []).extend(found)
    return _sets(experiment, rows)


def _sets(experiment: Experiment, rows: Mapping[str, Sequence[Row]]) -> dict[str, TestSet]:
    """A test set of each task that has rows, each row with its choices."""
    return {
        name: of_rows(with_choices(found, TASKS.get(name), learnt_rows(experiment, name) or found))
        for name, found in rows.items() if found
    }  # fmt: skip


def learnt_rows(experiment: Experiment, task: str) -> list[Row]:
    """The rows whose answers are the labels of a task: all of the manifests that its domains are learnt from.

    None of a task that takes no labels from its data.
    `MisfitError` where domains of a task have unlike labels: what a model is asked would differ by who was trained on
    what.
    """
    asked = TASKS.get(task)
    if not isinstance(asked, Chooses) or not asked.open:
        return []
    mine = {name: domain for name, domain in experiment.domains.items() if experiment.task_of(domain) == task}
    every: dict[str, list[Row]] = {}
    for name, domain in mine.items():
        manifests = [domain, *([domain.model_copy(update={"manifest": domain.dev})] if domain.dev else [])]
        every[name] = [row for one in manifests for row in read_rows(experiment, one)]
    labels = {name: set(labels_of(rows, asked)) for name, rows in every.items()}
    for first, other in pairwise(labels):
        if odd := sorted(labels[first] ^ labels[other]):
            raise MisfitError(
                f"{first} and {other}: task {task}: not the same labels ({', '.join(odd[:SHOWN])})",
                f"name the labels of each row in a column {CHOICES}",
            )
    return [row for rows in every.values() for row in rows]


def refuse_overlap(experiment: Experiment) -> None:
    """`DataError` where test shares recordings with train or dev, by their places.

    A test manifest that is not there yet passes: it is looked for again when it is needed.
    """
    inside = _domains(experiment, ("in-domain",))
    known = {
        split: {place for n, d in inside.items() for r in rows_of(experiment, n, d, split) for place in _places(r)}
        for split in SEEN
    }
    shared: dict[str, list[str]] = {split: [] for split in SEEN}
    for name, domain in _domains(experiment, ("in-domain", "out-of-domain", "other-language")).items():
        try:
            rows = rows_of(experiment, name, domain, "test")
        except DataError:
            continue
        for split, places in known.items():
            shared[split] += [str(r) for r in rows if places & _places(r)]
    for split, names in shared.items():
        _refuse(split, names)


def refuse_same_sounds(dev: Mapping[str, TestSet], test: Mapping[str, TestSet]) -> None:
    """The same by content, once the test recordings may be opened."""
    # a copy under another name has another place and the same sound
    known = {sound for one in dev.values() for u in one.utterances.values() for sound in _sounds(u.row)}
    held = [(name, u) for one in test.values() for name, u in one.utterances.items()]
    _refuse("dev", [name for name, u in held if known & _sounds(u.row)])


def _refuse(split: str, shared: list[str]) -> None:
    if shared:
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise MisfitError(
            f"{split} and test share {len(shared)} recordings: {', '.join(shared[:SHOWN])}{more}",
            "what is learnt from or chosen on must not be what is reported: split them apart",
        )


def _places(row: Row) -> set[tuple[Path, float | None, float | None]]:
    return {(one.audio.resolve(), one.start, one.end) for one in recordings_of(row)}


def _sounds(row: Row) -> set[str]:
    return {sound_key(one) for one in recordings_of(row)}
