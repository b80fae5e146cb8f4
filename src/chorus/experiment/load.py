"""From an experiment file to an `Experiment`: variables put in, short forms written out, everything checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from chorus.errors import RecipeError
from chorus.experiment.checks import problems_of
from chorus.experiment.schema import Experiment
from chorus.settings import read_document, validated


def load_experiment(source: str | Path | Mapping[str, object]) -> Experiment:
    """Read and check an experiment file; `RecipeError` with every problem found.

    Paths count from the working directory.
    """
    document, name, _ = read_document(source)
    # in values alone and before anything is checked: a variable may be a path, a seed or a model, but no key
    written_out = _written_out({key: _with_variables(value, name) for key, value in document.items()})
    experiment = validated(Experiment, written_out, source=name)
    problems = problems_of(experiment)
    if problems:
        raise RecipeError(problems, "docs/experiments.md lists the keys", name)
    return experiment


def _with_variables(value: object, name: str) -> object:
    """`${CHORUS_DATA}/digits/manifest.csv` with the environment's variables put in."""
    if isinstance(value, dict):
        return {k: _with_variables(v, name) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_variables(v, name) for v in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise RecipeError([f"{value}: the environment has no {found[1]}"], f"export {found[1]}=...", name)
        return os.environ[found[1]]

    return re.sub(r"\$\{(\w+)\}", put, value)


def _written_out(document: dict[str, object]) -> dict[str, object]:
    """Domains and test sets given as lists of values of `data.by`; methods as a list; a base by its name alone."""
    data, base, tests = document.get("data"), document.get("base"), document.get("tests")
    by = str(data.get("by", "domain")) if isinstance(data, Mapping) else "domain"
    if isinstance(base, str):
        document["base"] = {"model": base}
    document["domains"] = _by_value(document.get("domains"), by)
    if isinstance(tests, Mapping):
        document["tests"] = {group: _by_value(value, by) for group, value in tests.items()}
    methods = document.get("methods")
    if isinstance(methods, list):
        document["methods"] = {str(m): {} for m in methods}
    elif isinstance(methods, Mapping):
        document["methods"] = {k: {} if v is None else v for k, v in methods.items()}
    # one alone needs no name
    if document.get("calibrate") is True:
        document["calibrate"] = {"calibrated": {}}
    elif document.get("calibrate") is False:
        del document["calibrate"]
    return document


def _by_value(domains: object, by: str) -> object:
    """A list of values of a column as domains; anything else as it is."""
    return {str(v): {"where": {by: str(v)}} for v in domains} if isinstance(domains, list) else domains
