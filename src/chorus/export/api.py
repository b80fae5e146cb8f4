"""`chorus.export`: a model, however it is given, into the form of another runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chorus._version import __version__
from chorus.checkpoints.adapter import CONFIG
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source, open_model, reference_to
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import appearing_whole, explained
from chorus.errors import CheckpointError, UsageError, nearest, some
from chorus.export.output import appearing, check_room
from chorus.export.protocol import Exporter, ExportOptions, Making, Requirement
from chorus.export.registry import EXPORTERS
from chorus.files import expanded, present, read_json
from chorus.identity import file_hash
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.provenance import versions

SIDECAR, FACTS = ".json", "chorus.json"  # beside a file, and in a directory
GGUF = ".gguf"


@dataclass
class Exported:
    """What was written: number type -> its place; and what there is to think about."""

    places: dict[str, Path]
    nbytes: int
    warnings: list[str] = field(default_factory=list)


def export(
    model: Source,
    output: str | Path,
    to: str,
    *,
    types: str | Sequence[str] = (),
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
    settings: ExportOptions | None = None,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write a model in another runtime's form.

    `model` is whatever the other functions take, an adapter alone (on the base that it names) included; a recipe or a
    plan is merged while it is written, and stored nowhere else. `output` is the file or directory; of several types a
    folder. `tokenizer` is a directory or file, where the model has none.

    Raises `CheckpointError` with everything that stands in the way, `UsageError` for what is no format or type,
    `OutputError` where the result cannot be written, `MissingExtraError` where a type needs a package.

    >>> chorus.export("merged", "ggml-merged.bin", "ggml", types="q5_0")  # doctest: +SKIP
    """
    exporter = EXPORTERS.get(to)
    kinds = chosen_types(exporter, to, types)
    wanted = settings or ExportOptions()
    if idle := wanted.given - exporter.uses:
        raise UsageError(f"{some(sorted(idle))}: without a meaning for {to}", "leave it out")
    opened = source_of(model, options or OpenOptions(), tokenizer)
    places = places_of(Path(expanded(output)), exporter, to, kinds, name_of(model, opened))
    refuse_input(Path(output), opened.places) if not exporter.suffix else None
    refuse(to, opened, checks := exporter.check(opened, kinds, wanted))
    needed = sum(exporter.nbytes(opened, kind, wanted) for kind in kinds)
    check_room(next(iter(places.values())).parent, needed)
    facts = {"chorus": __version__, "format": to, **made_from(opened)}
    if exporter.suffix:
        written = _files(exporter, opened, places, wanted, facts, checks, overwrite=overwrite, progress=progress)
    else:
        written = _directories(exporter, opened, places, wanted, facts, checks, overwrite=overwrite, progress=progress)
    warnings = list(dict.fromkeys([*opened.warnings, *written.warnings]))
    return Exported(places, sum(map(_nbytes, places.values())), warnings)


def chosen_types(exporter: Exporter, to: str, types: str | Sequence[str]) -> list[str]:
    """The types that are asked for; `UsageError` names the nearest."""
    given = types.split(",") if isinstance(types, str) else list(types)
    kinds = list(dict.fromkeys(kind.strip().lower() for kind in given if kind.strip())) or [exporter.default]
    for kind in kinds:
        if kind not in exporter.types:
            raise UsageError(f'{to} has no type "{kind}"{nearest(kind, exporter.types)}', ", ".join(exporter.types))
    return kinds


def source_of(model: Source, options: OpenOptions, tokenizer: str | Path | None = None) -> Model:
    """The model that is named; an adapter stands on the base that its config names."""
    if isinstance(model, str | Path):
        place = expanded(model)
        if present(place / CONFIG) and not present(place / "config.json"):
            base = read_json(place / CONFIG).get("base_model_name_or_path")
            if not isinstance(base, str) or not base:
                raise CheckpointError(f"{place}: an adapter that names no base", f"name it on its base: BASE+{place}")
            model = f"{base}+{place}"
        model = reference_to(model)
    opened = open_model(model, options)
    if isinstance(model, Reference) and not opened.method:
        opened = replace(opened, hub_ids=tuple(model.hub_ids))
    if tokenizer is None:
        return opened
    place = expanded(tokenizer)
    if not place.exists():
        raise CheckpointError(f"{place}: no such file or directory", "check the path of the tokenizer")
    return replace(opened, tokenizer_directory=place)


def refuse(to: str, model: Model, checks: Iterable[Requirement]) -> None:
    """`CheckpointError` with every check that fails, each with its remedy."""
    failed = [check for check in checks if check.problem]
    if not failed:
        return
    if len(failed) == 1:
        raise CheckpointError(f"{model.label}: not for {to}: {failed[0].problem}", failed[0].remedy)
    lines = "\n".join(f"  - {check.problem}: {check.remedy}" for check in failed)
    raise CheckpointError(f"{model.label}: not for {to}, for {len(failed)} reasons\n{lines}")


def name_of(source: Source, model: Model) -> str:
    """What files are called after: the last part of what was named."""
    text = model.label if not isinstance(source, str | Path) else str(source)
    last = text.rpartition("+")[2].rstrip("/").rpartition("/")[2].partition("@")[0]
    for ending in (".yml", ".yaml", ".pt", ".bin"):
        last = last.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in last).strip("-.") or "model"


def places_of(output: Path, exporter: Exporter, to: str, kinds: Sequence[str], name: str) -> dict[str, Path]:
    """Type -> its place: the output itself, or in it (a folder that is there, or one for several types)."""
    if not exporter.suffix:
        return {kinds[0]: output} if len(kinds) == 1 else {kind: output / kind for kind in kinds}
    if len(kinds) == 1 and not output.is_dir():
        return {kinds[0]: output}
    if present(output) and not output.is_dir():
        raise UsageError(f"{output}: a file, for {len(kinds)} types", "name a folder")
    if exporter.suffix == GGUF:  # as llama.cpp's files are called: base-f16.gguf
        return {kind: output / f"{name}-{kind}{GGUF}" for kind in kinds}
    # whisper.cpp's own names in its models/: ggml-base.en.bin, ggml-base.en-q5_0.bin
    return {
        kind: output / f"{to}-{name}{'' if kind == exporter.default else f'-{kind}'}{exporter.suffix}" for kind in kinds
    }


def modelfiles_of(places: Mapping[str, Path]) -> dict[str, Path]:
    """Type -> the place of Ollama's file, which is called Modelfile where there is one."""
    single = len(places) == 1
    return {kind: place.with_name("Modelfile" if single else f"Modelfile-{kind}") for kind, place in places.items()}


def made_from(model: Model) -> JsonObject:
    """What went in: hashes of its files, the recipe of a merge, the adapters; no place of this machine's."""
    files = {name: model.hub_hashes.get(name) or file_hash(path) for name, path in sorted(model.paths.items())}
    adapters = {name: file_hash(path) for name, path in sorted(model.adapter_paths.items())}
    found: JsonObject = {"source": model.label, "revision": model.revision, "files": files, "adapters": adapters}
    found |= {"recipe": model.recipe, "fingerprint": model.identify()} if model.identify is not None else {}
    return {key: value for key, value in found.items() if value} | {"versions": versions(("gguf", "ctranslate2"))}


def _facts(
    facts: JsonObject, kind: str, checks: Sequence[Requirement], written: Making, content: JsonObject
) -> JsonObject:
    held = {"checks": [check.what for check in checks]}
    return {**facts, "type": kind, **held, **written.facts, **content}


def _files(
    exporter: Exporter,
    model: Model,
    places: Mapping[str, Path],
    wanted: ExportOptions,
    facts: JsonObject,
    checks: Sequence[Requirement],
    *,
    overwrite: bool,
    progress: Progress,
) -> Making:
    beside = {f"Modelfile of {kind}": place for kind, place in modelfiles_of(places).items() if wanted.modelfile}
    with appearing({**places, **beside}, exporter.ours, overwrite=overwrite) as every:
        drafts = {kind: every[kind] for kind in places}
        written = exporter.write(model, drafts, wanted, progress)
        for name, place in zip(beside, places.values(), strict=False):
            with explained(every[name]):
                every[name].write_text(written.modelfile.replace("{file}", place.name, 1), encoding="utf-8")
        content = {
            kind: {"bytes": draft.stat().st_size, "xxh3": written.hashes.get(kind) or file_hash(draft)}
            for kind, draft in drafts.items()
        }
    for kind, place in places.items():
        write_json(place.with_name(place.name + SIDECAR), _facts(facts, kind, checks, written, content[kind]))
    return written


def _directories(
    exporter: Exporter,
    model: Model,
    places: Mapping[str, Path],
    wanted: ExportOptions,
    facts: JsonObject,
    checks: Sequence[Requirement],
    *,
    overwrite: bool,
    progress: Progress,
) -> Making:
    output = next(iter(places.values()))
    whole = output if len(places) == 1 else output.parent
    with appearing_whole(whole, overwrite=overwrite, parts=list(places) if len(places) > 1 else ()) as partial:
        drafts = {kind: partial.path / ("" if len(places) == 1 else kind) for kind in places}
        written = exporter.write(model, drafts, wanted, progress)
        for kind, draft in drafts.items():
            content = {"contents": {p.name: file_hash(p) for p in sorted(draft.iterdir()) if p.is_file()}}
            write_json(draft / FACTS, _facts(facts, kind, checks, written, content))
    return written


def _nbytes(place: Path) -> int:
    return sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) if place.is_dir() else place.stat().st_size
