"""What went in: identities, versions, licences, settings; and the model card that tells it.

Nothing here depends on when or where the merge ran: no times, no host, no absolute paths.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from chorus._version import __version__
from chorus.plain import JsonObject

PACKAGES = ("torch", "numpy", "numba", "scipy", "safetensors", "transformers")


@cache
def versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Versions of what the result's bytes may depend on; `more` packages where they are installed."""
    found = {"chorus-merge": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def card_metadata(directory: Path | None) -> JsonObject:
    """The front matter of a model's card; empty where there is none."""
    path = directory / "README.md" if directory else None
    if path is None or not path.exists():
        return {}
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def licence_of(directory: Path | None) -> str | None:
    """The licence that a model's card states."""
    value = card_metadata(directory).get("license")
    return str(value) if value else None


def licence_warnings(licences: Mapping[str, str | None]) -> list[str]:
    """What to think about before publishing: licences that are missing, or differ."""
    missing = [name for name, licence in licences.items() if licence is None]
    found = sorted({licence for licence in licences.values() if licence})
    warnings = []
    if missing:
        warnings.append(f"no licence is stated by {', '.join(missing)}")
    if len(found) > 1:
        warnings.append("the licences differ: " + ", ".join(f"{n}: {v}" for n, v in licences.items() if v))
    return warnings


def model_card(
    *,
    title: str,
    method: str,
    base_models: Sequence[str],
    licences: Mapping[str, str | None],
    languages: Sequence[str],
    pipeline_tag: str | None,
    recipe_yaml: str,
    losses: Sequence[str],
    adapter: bool = False,
    intro: str | None = None,
) -> str:
    """README.md of a merged model or adapter: front matter as the hub reads it, and what a reader asks first.

    `losses` are the notes at its end: what the cast lost, or what an adapter could not hold.
    """
    found = sorted({v for v in licences.values() if v})
    front: JsonObject = {"base_model": list(base_models), "base_model_relation": "adapter" if adapter else "merge"}
    if len(found) == 1 and None not in licences.values():
        front["license"] = found[0]
    if languages:
        front["language"] = list(languages)
    front["library_name"] = "peft" if adapter else "transformers"
    if pipeline_tag:
        front["pipeline_tag"] = pipeline_tag
    front["tags"] = ["merge", "chorus", method] if method != "extract lora" else ["lora", "chorus"]
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), "---", "", f"# {title}", ""]
    intro = intro or f"A merge of {len(base_models)} models by `{method}`"
    lines += [f"{intro}, made with Chorus {__version__}.", ""]
    lines += ["| model | licence |", "|---|---|"]
    lines += [f"| {name} | {licence or 'not stated'} |" for name, licence in licences.items()]
    lines += ["", "## Recipe", "", "```yaml", recipe_yaml.rstrip(), "```", ""]
    lines += ["`chorus.json` holds the recipe as resolved, the identity of every input file and the versions.", ""]
    if losses:
        lines += ["## What it does not hold" if adapter else "## Rounding", "", *(f"- {line}" for line in losses), ""]
    return "\n".join(lines)
