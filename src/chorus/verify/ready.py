"""Before an export: would a model convert, what is missing, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source
from chorus.export.api import chosen_types, source_of
from chorus.export.protocol import ExportOptions, Requirement
from chorus.export.registry import EXPORTERS
from chorus.export.whisper import is_whisper
from chorus.files import present, read_json
from chorus.tables import Table

# transformers 5 writes the first alone, with the extractor in a block of its own; before it was the second
NEW, OLD, BLOCK = "processor_config.json", "preprocessor_config.json", "feature_extractor"


@dataclass(frozen=True)
class Readiness:
    """Whether a model would convert to a format, and everything that was looked at for it."""

    model: str
    format: str
    requirements: list[Requirement]

    @property
    def ok(self) -> bool:
        return not any(one.problem for one in self.requirements)

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {"model": self.model, "format": self.format, "ok": self.ok,
                "requirements": [vars(one) for one in self.requirements]}  # fmt: skip

    def table(self) -> Table:
        """A row a requirement."""
        rows = [
            [one.what, "fails" if one.problem else "holds", one.problem, one.remedy if one.problem else ""]
            for one in self.requirements
        ]
        missing = sum(bool(one.problem) for one in self.requirements)
        note = f"{missing} of {len(rows)} stand in the way" if missing else f"ready: {len(rows)} of {len(rows)} hold"
        return Table(f"{self.model} for {self.format}", ["what", "result", "problem", "what to do"], rows, [note])


def ready(
    model: Source,
    to: str,
    *,
    types: str = "",
    tokenizer: str | Path | None = None,
    options: OpenOptions | None = None,
) -> Readiness:
    """What the exporter itself asks of a model, and whether its feature extractor is its own.

    Raises `UsageError` for what is no format or type, `CheckpointError` for what is no model.
    """
    exporter = EXPORTERS.get(to)
    kinds = chosen_types(exporter, to, types)
    source = source_of(model, options or OpenOptions(), tokenizer)
    found = list(exporter.check(source, kinds, ExportOptions()))
    if is_whisper(source):
        found += extractor(source)
    return Readiness(source.label, to, found)


def extractor(model: Model) -> Iterator[Requirement]:
    """Its mel bins must be the model's: with those of another size runtimes fail, or hear noise."""
    what, wanted = "feature extractor", int(model.config["num_mel_bins"])
    if model.directory is None:  # a .pt or a ggml file: made anew from the model's own size
        return
    settings = extractor_settings(model.directory)
    # without it transformers cannot hear, and faster-whisper takes 80 bins for granted
    if settings is None:
        remedy = f"copy the base's {OLD} beside it (or {NEW}): it has {wanted} mel bins"
        yield Requirement(what, f"neither {NEW} nor {OLD} says how it hears", remedy)
        return
    bins = settings.get("feature_size", 80)  # transformers' default
    problem = f"it makes {bins} mel bins, the model takes {wanted}" if bins != wanted else ""
    yield Requirement(what, problem, f"take the {OLD} of a model of {wanted} bins" if problem else "")


def extractor_settings(directory: Path) -> dict[str, object] | None:
    """The settings of a directory's feature extractor, in whichever file it has them; None where it has none."""
    if present(directory / OLD):
        return read_json(directory / OLD)
    block = read_json(directory / NEW).get(BLOCK) if present(directory / NEW) else None
    return block if isinstance(block, dict) else None
