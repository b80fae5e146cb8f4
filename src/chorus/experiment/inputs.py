"""What is wrong with an experiment's base and rows, as far as they are there: told before the first training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from chorus.checkpoints.reference import looks_local
from chorus.data.choices import with_choices
from chorus.data.manifest import Row
from chorus.errors import ChorusError, RecipeError, nearest
from chorus.experiment.rows import learnt_rows, manifest_of, read_rows, rows_of
from chorus.experiment.schema import DomainRows, Experiment
from chorus.files import expanded, present
from chorus.models.languages import language_code
from chorus.tasks.protocol import Chooses
from chorus.tasks.registry import TASKS

SHOWN = 5  # languages in a message


def check_inputs(experiment: Experiment) -> None:
    """`RecipeError` with all that a training or a test would fail on; hub ids and later files pass."""
    problems = [*_of_base(experiment), *_of_rows(experiment)]
    if problems:
        raise RecipeError(problems, "mend the file, or the manifests that it names", experiment.name)


def _of_base(experiment: Experiment) -> Iterator[str]:
    model = experiment.base.model
    if looks_local(model) and not expanded(model).is_dir():
        yield f"base.model: {model}: no such directory"


def _of_rows(experiment: Experiment) -> Iterator[str]:
    """Domains and test sets without rows, and languages that the base cannot write."""
    groups: list[tuple[str, Mapping[str, DomainRows]]] = [
        ("domains", experiment.domains), ("tests.out-of-domain", experiment.tests.out_of_domain),
        ("tests.other-language", experiment.tests.other_language),
    ]  # fmt: skip
    found: list[Row] = []
    learnt: dict[str, list[Row]] = {}
    for group, domains in groups:
        for name, domain in domains.items():
            splits = ("train", "dev", "test") if group == "domains" else ("test",)
            for split in splits:
                own = {"dev": domain.dev, "test": domain.test}.get(split)
                if not _is_there(experiment, domain, own):
                    continue
                try:
                    rows = rows_of(experiment, name, domain, split)
                except ChorusError as error:
                    yield f"{group}.{name}: {error.message}"
                    break
                found += rows
                if group == "domains":
                    learnt.setdefault(experiment.task_of(domain), []).extend(rows)
                if not rows:
                    yield f"{group}.{name}: no {split} rows{_instead(experiment, domain)}"
    for task, rows in learnt.items():
        yield from _of_labels(experiment, task, rows)
    yield from _of_languages(experiment, found)


def _of_labels(experiment: Experiment, task: str, rows: list[Row]) -> Iterator[str]:
    """Answers that are none of their labels, and labels that no answer tells apart or that domains do not share."""
    mine = [one for one in experiment.domains.values() if experiment.task_of(one) == task]
    # labels are those of all domains of the task: of what comes later they are looked at then
    if not isinstance(TASKS.get(task), Chooses) or not all(_is_there(experiment, one, None) for one in mine):
        return
    try:
        with_choices(rows, TASKS.get(task), learnt_rows(experiment, task))
    except ChorusError as error:
        yield error.message


def _is_there(experiment: Experiment, domain: DomainRows, own: str | None) -> bool:
    """Whether a domain's rows, or its `own` manifest of a split, is there to be read; others are read later."""
    # the run itself writes what it divides, from a manifest that may be there
    divided = experiment.data.split is not None and not (own or domain.manifest)
    manifest = experiment.data.manifest if divided else own or manifest_of(experiment, domain)
    return manifest is not None and present(expanded(manifest))


def _instead(experiment: Experiment, domain: DomainRows) -> str:
    """The values that a manifest has, where a domain is one value of one column."""
    if len(domain.where) != 1:
        return ""
    ((column, value),) = domain.where.items()
    known = {row.get(column) for row in read_rows(experiment, domain)} - {""}
    return "" if str(value) in known else f" ({column} {value}{nearest(str(value), known)})"


def _of_languages(experiment: Experiment, rows: list[Row]) -> Iterator[str]:
    """Languages of rows that a base on disk has no token for."""
    from chorus.models.loading import limits_of

    base = experiment.base.model
    if not Path(base).is_dir():
        return
    try:
        known = limits_of(base).languages
    except ChorusError as error:
        yield f"base.model: {error.message}"
        return
    default = experiment.data.language
    spoken = dict.fromkeys(row.language or default for row in rows) if known else {}
    unknown = [language for language in spoken if language_code(language) not in known]
    if "" in unknown:
        yield "data.language: rows name no language, and the base needs one"
    if any(unknown):
        named = ", ".join([language for language in unknown if language][:SHOWN])
        yield f"base.model: {base}: its tokenizer does not know the languages of rows: {named}"
