"""`chorus.export`: a model, however it is given, into the form of another runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chorus._version import __version__
from chorus.checkpoints.composite import put_into
from chorus.checkpoints.lineage import PROVENANCE
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source, locate, on_its_base, open_model, reference_to
from chorus.checkpoints.output_place import CONTENTS, refuse_input
from chorus.checkpoints.reference import Reference, is_hub_id
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import appearing_whole, write_text
from chorus.errors import CheckpointError, UsageError, nearest, some
from chorus.export.naming import name_of
from chorus.export.output import appearing, check_room
from chorus.export.protocol import FLAGS, Exporter, ExportOptions, Making, Requirement
from chorus.export.registry import EXPORTERS
from chorus.files import expanded, present, read_json
from chorus.identity import file_hash
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.provenance import versions

SIDECAR = ".json"  # beside a file
GGUF = ".gguf"
RECIPES = (".yml", ".yaml")
Write = Callable[[Mapping[str, Path]], Making]  # every type to its place


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
    into: Source | None = None,
    overwrite: bool = False,
    settings: ExportOptions | None = None,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write a model in another runtime's form.

    `model` is whatever the other functions take, an adapter alone (on the base that it names) included; a recipe or a
    plan is merged while it is written, and stored nowhere else. `output` is the file or directory; of several types a
    folder. `tokenizer` is a directory or file, where the model has none. `into` is a larger model that the model is a
    part of, as Qwen2.5-Omni's thinker is: what is written is the larger one with this part.

    Raises `CheckpointError` with everything that stands in the way, `UsageError` for what is no format or type,
    `OutputError` where the result cannot be written, `MissingExtraError` where a type needs a package.

    >>> chorus.export("merged", "ggml-merged.bin", "ggml", types="q5_0")  # doctest: +SKIP
    """
    exporter = EXPORTERS.get(to)
    kinds = chosen_types(exporter, to, types)
    wanted = settings or ExportOptions()
    if idle := wanted.given - exporter.uses:
        raise UsageError(f"{some(FLAGS[name] for name in sorted(idle))}: without a meaning for {to}", "leave it out")
    opened = source_of(model, options or OpenOptions(), tokenizer, into)
    places = places_of(output, exporter, to, kinds, name_of(opened))
    # of files their own places: the folder may hold what they are made from
    for place in places.values() if exporter.suffix else [expanded(output)]:
        refuse_input(place, opened.places)
    refuse(to, opened, checks := exporter.check(opened, kinds, wanted))
    needed = sum(exporter.nbytes(opened, kind, wanted) for kind in kinds)
    check_room(next(iter(places.values())).parent, needed)
    facts: JsonObject = {"chorus": __version__, "format": to, **made_from(opened)}
    facts["checks"] = list(dict.fromkeys(check.what for check in checks))

    def write(drafts: Mapping[str, Path]) -> Making:
        return exporter.write(opened, drafts, wanted, progress)

    if exporter.suffix:
        beside = modelfiles_of(places) if wanted.modelfile else {}
        written = _files(write, places, beside, facts, exporter.ours, overwrite=overwrite)
    else:
        written = _directories(write, places, facts, overwrite=overwrite)
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


def source_of(
    model: Source, options: OpenOptions, tokenizer: str | Path | None = None, into: Source | None = None
) -> Model:
    """The model that is named; an adapter stands on the base that its config names, a part in its whole."""
    model = on_its_base(model, options)
    model = reference_to(model) if isinstance(model, str | Path) else model
    opened = open_model(model, options)
    if isinstance(model, Reference) and not opened.method:
        opened = replace(opened, hub_ids=tuple(model.hub_ids))
    if into is not None:
        opened = put_into(opened, source_of(into, options))
    return opened if tokenizer is None else replace(opened, tokenizer_directory=tokenizer_at(tokenizer, options))


def tokenizer_at(named: str | Path, options: OpenOptions) -> Path:
    """A tokenizer's file or directory; of a repository on the hub its place in the cache."""
    place = expanded(named)
    if present(place):
        return place
    reference = reference_to(named)
    if not is_hub_id(reference.path):
        raise CheckpointError(f"{place}: no such file or directory", "check the path of the tokenizer")
    return locate(reference, options, "tokenizer")[0]


def refuse(to: str, model: Model, checks: Iterable[Requirement]) -> None:
    """`CheckpointError` with every check that fails, each with its remedy."""
    failed = [check for check in checks if check.problem]
    if not failed:
        return
    if len(failed) == 1:
        raise CheckpointError(f"{model.label}: not for {to}: {failed[0].problem}", failed[0].remedy)
    lines = "\n".join(f"  - {check.problem}: {check.remedy}" for check in failed)
    raise CheckpointError(f"{model.label}: not for {to}, for {len(failed)} reasons\n{lines}")


def places_of(output: str | Path, exporter: Exporter, to: str, kinds: Sequence[str], name: str) -> dict[str, Path]:
    """Type -> its place: the output itself, or in it (a folder that is there or named as one, or for several types)."""
    into, single = Path(expanded(output)), len(kinds) == 1
    if not exporter.suffix:
        return {kinds[0]: into} if single else {kind: into / kind for kind in kinds}
    if single and not into.is_dir() and not str(output).endswith("/"):
        return {kinds[0]: into}
    if present(into) and not into.is_dir():
        raise UsageError(f"{into}: a file, where a folder is meant", "name a folder")
    if exporter.suffix == GGUF:  # as llama.cpp's files are called: base-f16.gguf
        return {kind: into / f"{name}-{kind}{GGUF}" for kind in kinds}
    # whisper.cpp's own names in its models/: ggml-base.en.bin, ggml-base.en-q5_0.bin
    name = name.removeprefix(f"{to}-")
    return {
        kind: into / f"{to}-{name}{'' if kind == exporter.default else f'-{kind}'}{exporter.suffix}" for kind in kinds
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
    found["recipe"] = model.recipe
    if model.identify is not None:
        # a list: two models may lie in directories of one name; recipes stand there as they were resolved
        read = [path for path in sorted(set(model.reads)) if path.is_file() and path.suffix not in RECIPES]
        inputs = [{"file": f"{path.parent.name}/{path.name}", "xxh3": file_hash(path)} for path in read]
        found |= {"fingerprint": model.identify(), "inputs": inputs}
    return {key: value for key, value in found.items() if value} | {"versions": versions(("gguf", "ctranslate2"))}


def _files(
    write: Write,
    places: Mapping[str, Path],
    beside: Mapping[str, Path],
    facts: JsonObject,
    ours: Callable[[Path], bool],
    *,
    overwrite: bool,
) -> Making:
    sidecars = {kind: place.with_name(place.name + SIDECAR) for kind, place in places.items()}

    def replaceable(path: Path) -> bool:
        return _is_sidecar(path) if path in sidecars.values() else ours(path)

    # the models last: whoever finds one finds what goes with it
    finals = [*sidecars.values(), *beside.values(), *places.values()]
    with appearing(finals, replaceable, overwrite=overwrite) as drafts:
        written = write({kind: drafts[place] for kind, place in places.items()})
        for kind, place in beside.items():
            write_text(drafts[place], written.modelfile.replace("{file}", places[kind].name, 1))
        for kind, place in places.items():
            draft = drafts[place]
            told = {"bytes": draft.stat().st_size, "xxh3": written.hashes.get(kind) or file_hash(draft)}
            write_json(drafts[sidecars[kind]], {**facts, "type": kind, **written.facts, **told})
    return written


def _is_sidecar(path: Path) -> bool:
    """Whether a file tells of an export, so that `--overwrite` may replace it."""
    try:
        return {"chorus", "format", "type"} <= read_json(path).keys()
    except CheckpointError:
        return False


def _directories(write: Write, places: Mapping[str, Path], facts: JsonObject, *, overwrite: bool) -> Making:
    output = next(iter(places.values()))
    whole = output if len(places) == 1 else output.parent
    with appearing_whole(whole, overwrite=overwrite, parts=list(places) if len(places) > 1 else ()) as partial:
        drafts = {kind: partial.path / ("" if len(places) == 1 else kind) for kind in places}
        written = write(drafts)
        for kind, draft in drafts.items():
            files = sorted(path for path in draft.rglob("*") if path.is_file())
            told = {CONTENTS: {path.relative_to(draft).as_posix(): file_hash(path) for path in files}}
            write_json(draft / PROVENANCE, {**facts, "type": kind, **written.facts, **told})
    return written


def _nbytes(place: Path) -> int:
    return sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) if place.is_dir() else place.stat().st_size
