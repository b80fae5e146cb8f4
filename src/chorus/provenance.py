"""What went in: identities, versions, licences, settings; and the model card that tells it.

Nothing here depends on when or where the merge ran: no times, no host, no absolute paths.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import yaml

from chorus._version import __version__
from chorus.documents import TextLoader, parse_yaml
from chorus.errors import RecipeError
from chorus.files import MAX_FRONT, opened, present, shown
from chorus.plain import JsonMap, JsonObject

# cards are written by hand, on Windows as well: any line ends, any encoding, for a licence is looked for, no error
FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
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
    """The front matter of a model's card, every value a text; empty where there is none that can be read."""
    match = FRONT.match(_beginning_of_card(directory))
    path = directory / "README.md" if directory else None
    try:
        documents = parse_yaml(match[1], str(path), TextLoader) if match else []
    except RecipeError:
        return {}
    return documents[0] if len(documents) == 1 and isinstance(documents[0], dict) else {}


def card_body(directory: Path | None) -> str:
    """What a model's card says after its front matter; empty where there is none."""
    return FRONT.sub("", _beginning_of_card(directory), count=1).strip()


def _beginning_of_card(directory: Path | None) -> str:
    path = directory / "README.md" if directory else None
    if path is None or not present(path):
        return ""
    with opened(path, what="model card") as file:  # a card may embed pictures after its front matter
        raw = file.read(MAX_FRONT)
    return raw.decode("utf-8", errors="replace")


def licence_of(directory: Path | None) -> str | None:
    """The licence that a model's card states."""
    value = card_metadata(directory).get("license")
    return shown(value) if value else None


def licences_in_words(stated: Mapping[str, str | None]) -> str | None:
    """One text for the licences of a model, or of the models that a merge is made of.

    >>> licences_in_words({"a": "mit", "b": "apache-2.0", "c": None})
    'apache-2.0 + mit + not stated'
    """
    found = [value for value in stated.values() if value]
    return " + ".join([*sorted(set(found)), *(["not stated"] if len(found) < len(stated) else [])]) if found else None


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


@dataclass(frozen=True)
class Card:
    """A model's README.md: front matter as the hub reads it, then what a reader asks first.

    intro: what it is, in a clause; by what it was made is added.
    base_models: the hub's ids of what it is made from; what lies elsewhere has no place in a card's front matter.
    rows: of the table below it, under `columns`.
    settings: of the run, in YAML, under the heading that is named.
    kept: what `chorus.json` holds, in a clause.
    notes: under their heading, where there are some.
    more: of the front matter, below what is said here: of a model that is the same but for its form its own.
    below: at the end, as it is.
    """

    title: str
    intro: str
    base_models: Sequence[str]
    relation: Literal["merge", "adapter", "finetune", "quantized"]
    tags: Sequence[str]
    rows: Sequence[tuple[str, str]]
    settings: tuple[str, str]
    kept: str
    columns: tuple[str, str] = ("", "")
    licence: str | None = None
    languages: Sequence[str] = ()
    pipeline_tag: str | None = None
    picture: str = ""  # in Markdown, below the table
    notes: tuple[str, Sequence[str]] = ("", ())
    more: JsonMap = field(default_factory=dict)
    below: str = ""

    @property
    def front(self) -> JsonObject:
        """What the hub reads."""
        alone = len(self.base_models) == 1 and self.relation in ("finetune", "quantized")
        found: JsonObject = {}
        if self.base_models:
            found["base_model"] = self.base_models[0] if alone else list(self.base_models)
            found["base_model_relation"] = self.relation
        found |= {"license": self.licence} if self.licence else {}
        found |= {"language": list(self.languages)} if self.languages else {}
        found["library_name"] = "peft" if self.relation == "adapter" else "transformers"
        found |= {"pipeline_tag": self.pipeline_tag} if self.pipeline_tag else {}
        found |= {key: value for key, value in self.more.items() if key not in found}
        return {**found, "tags": list(self.tags)}

    def text(self) -> str:
        """The whole file."""
        front = yaml.safe_dump(self.front, sort_keys=False, allow_unicode=True).rstrip()
        heading, settings = self.settings
        lines = ["---", front, "---", "", f"# {self.title}", "", f"{self.intro}, made with Chorus {__version__}.", ""]
        lines += [_piped(self.columns), "|---|---|", *map(_piped, self.rows), ""]
        lines += [self.picture, ""] if self.picture else []
        lines += [f"## {heading}", "", "```yaml", settings.rstrip(), "```", "", f"`chorus.json` holds {self.kept}.", ""]
        heading, notes = self.notes
        lines += [f"## {heading}", "", *(f"- {note}" for note in notes), ""] if notes else []
        lines += [self.below, ""] if self.below else []
        return "\n".join(lines)


def _piped(cells: tuple[str, str]) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


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
    """README.md of a merged model or adapter.

    `losses` are the notes at its end: what the cast lost, or what an adapter could not hold.
    """
    found = sorted({v for v in licences.values() if v})
    return Card(
        title=title,
        intro=intro or f"A merge of {len(licences)} models by `{method}`",
        base_models=base_models,
        relation="adapter" if adapter else "merge",
        tags=["lora", "chorus"] if method == "extract lora" else ["merge", "chorus", method],
        columns=("model", "licence"),
        rows=[(name, licence or "not stated") for name, licence in licences.items()],
        settings=("Recipe", recipe_yaml),
        kept="the recipe as resolved, the identity of every input file and the versions",
        # only what all of them state: which of two a merge may have is not for a program to say
        licence=found[0] if len(found) == 1 and None not in licences.values() and " + " not in found[0] else None,
        languages=languages,
        pipeline_tag=pipeline_tag,
        notes=("What it does not hold" if adapter else "Rounding", losses),
    ).text()
