"""From an experiment's domains to training sources, and to the rows that dev and test hear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chorus.checkpoints.writer import write_text
from chorus.data.manifest import Row, manifest_text, read_manifest, select
from chorus.data.split import split_rows
from chorus.data.utterance import sound_key
from chorus.errors import DataError
from chorus.evaluate.comparison import Group
from chorus.experiment.config import Experiment, Part
from chorus.train.rows import SPLIT_NAMES
from chorus.transcribe.test_sets import TestSet, of_rows

SHOWN = 3
SEEN = ("dev", "train")


def manifest_of(made: Experiment, part: Part) -> str:
    """Where a part's rows are; of synthetic speech, or of another split, where they will be."""
    if part.manifest:
        return part.manifest
    if made.data.split:
        return str(made.output_dir / "split" / "manifest.csv")
    return made.data.manifest or str(made.output_dir / "synth" / "manifest.csv")


def read_part(made: Experiment, part: Part) -> list[Row]:
    """All rows of the manifest that a part's rows are in, with the experiment's own split where it has one."""
    columns, place = part.columns or made.data.columns, part.audio_dir or made.data.audio_dir
    if part.manifest or not made.data.split:
        return read_manifest(manifest_of(made, part), columns=columns, audio_dir=place).rows
    return divided(made)


def divided(made: Experiment) -> list[Row]:
    """The shared manifest's rows with the experiment's own split."""
    assert made.data.split is not None
    assert made.data.manifest is not None
    manifest = read_manifest(made.data.manifest, columns=made.data.columns, audio_dir=made.data.audio_dir)
    told = made.data.split
    return split_rows(manifest.rows, dev=told.dev, test=told.test, by=told.by, stratify=told.stratify, seed=told.seed)


def write_divided(made: Experiment) -> None:
    """Write the manifest with the experiment's own split where trainings read it."""
    place = made.output_dir / "split" / "manifest.csv"
    text = manifest_text(divided(made), place)
    if not place.exists() or place.read_text(encoding="utf-8") != text:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)


def source_of(made: Experiment, name: str, part: Part) -> dict[str, Any]:
    """The training source of a domain, as `chorus train` takes it."""
    found = {
        "manifest": manifest_of(made, part), "where": part.where, "domain": name,
        "columns": part.columns or made.data.columns, "language": part.language or made.data.language,
    }  # fmt: skip
    place = part.audio_dir or made.data.audio_dir
    return {**found, **({"audio_dir": place} if place else {})}


def dev_sources(made: Experiment, parts: Mapping[str, Part]) -> list[dict[str, Any]]:
    """What a training is measured on: the domains' dev rows."""
    found = []
    for name, part in parts.items():
        source = source_of(made, name, part)
        found.append({**source, "manifest": part.dev} if part.dev else {**source, "split": "dev"})
    return found


def groups_of(made: Experiment) -> dict[str, Group]:
    """Each cell's group."""
    found: dict[str, Group] = dict.fromkeys(made.domains, "in-domain")
    found |= dict.fromkeys(made.tests.out_of_domain, "out-of-domain")
    found |= dict.fromkeys(made.tests.other_language, "other-language")
    return found


def _parts(made: Experiment, groups: Iterable[str]) -> dict[str, Part]:
    kinds = {
        "in-domain": made.domains, "out-of-domain": made.tests.out_of_domain,
        "other-language": made.tests.other_language,
    }  # fmt: skip
    return {name: part for group in groups for name, part in kinds[group].items()}


def rows_of(made: Experiment, name: str, part: Part, split: str) -> list[Row]:
    """The dev or test rows of a domain, named after it. A test set's manifest without splits is all test."""
    own = {"dev": part.dev, "test": part.test}.get(split)
    every = read_part(made, part.model_copy(update={"manifest": own}) if own else part)
    rows = select(every, part.where)
    if part.split != "all" or split != "test":
        wanted = {part.split} if part.split and split == "test" else set(SPLIT_NAMES[split])
        divided_already = any(r.split for r in every)
        rows = [r for r in rows if r.split in wanted] if divided_already else rows if own or split == "test" else []
    return [replace(r, domain=name, language=r.language or part.language or made.data.language) for r in rows]


def dev_set(made: Experiment) -> TestSet:
    """What settings are chosen on. `DataError` where a domain has no dev rows."""
    over = ("in-domain", "out-of-domain", "other-language") if made.selection.over == "all" else ("in-domain",)
    rows: list[Row] = []
    for name, part in _parts(made, over).items():
        found = rows_of(made, name, part, "dev")
        if not found and name in made.domains:
            raise DataError(f"{name}: no dev rows to choose on", "give rows of split dev, or dev: MANIFEST")
        rows += found
    return of_rows(rows)


def test_set(made: Experiment) -> TestSet:
    """What is told in the end."""
    rows: list[Row] = []
    for name, part in _parts(made, ("in-domain", "out-of-domain", "other-language")).items():
        found = rows_of(made, name, part, "test")
        if not found:
            raise DataError(f"{name}: no test rows", "give rows of split test, or test: MANIFEST")
        rows += found
    return of_rows(rows)


test_set.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def refuse_overlap(made: Experiment) -> None:
    """`DataError` where test shares recordings with train or dev, by their places.

    A test manifest that is not there yet passes: it is looked for again when it is needed.
    """
    inside = _parts(made, ("in-domain",))
    known = {split: {_place(r) for n, p in inside.items() for r in rows_of(made, n, p, split)} for split in SEEN}
    shared: dict[str, list[str]] = {split: [] for split in SEEN}
    for name, part in _parts(made, ("in-domain", "out-of-domain", "other-language")).items():
        try:
            rows = rows_of(made, name, part, "test")
        except DataError:
            continue
        for split, places in known.items():
            shared[split] += [str(r) for r in rows if _place(r) in places]
    for split, names in shared.items():
        _refuse(split, names)


def refuse_same_sounds(dev: TestSet, test: TestSet) -> None:
    """The same by content, once the test recordings may be opened."""
    known = {_sound(u.row) for u in dev.utterances.values()}
    _refuse("dev", [name for name, u in test.utterances.items() if _sound(u.row) in known])


def _refuse(split: str, shared: list[str]) -> None:
    if shared:
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise DataError(
            f"{split} and test share {len(shared)} recordings: {', '.join(shared[:SHOWN])}{more}",
            "what is learnt from or chosen on must not be what is reported: split them apart",
        )


def _place(row: Row) -> tuple[Path, float | None, float | None]:
    return row.audio.resolve(), row.start, row.end


def _sound(row: Row) -> str:
    return sound_key(row)
