"""`--to hf`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.checkpoints.beside import beside, is_tokenizer, tokenizer_in, told
from chorus.checkpoints.lineage import PROVENANCE, facts_in, lineage_of
from chorus.checkpoints.model import Model
from chorus.checkpoints.shards import DEFAULT_SHARD_BYTES, stored_config
from chorus.checkpoints.sidecar import VOCABULARIES, copy_side_files, write_json
from chorus.checkpoints.ties import settled
from chorus.checkpoints.vocabulary import PIECES, vocabulary_of
from chorus.checkpoints.writer import write_text
from chorus.errors import some
from chorus.export.hf import writer
from chorus.export.hf.card import card_of, licences_of
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.files import present, shown
from chorus.models.generation import completed, generation_config
from chorus.models.registry import kind_of
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.provenance import licence_warnings

# Input embeddings of texts by their modules' names in transformers. No head: those of CTC have no row for the start and
# end that transformers gives their tokenizers, and never write them.
EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|shared|wte|word_embeddings|embed_in|tok_embeddings)\.weight")


class HuggingFace:
    """A model directory as transformers reads it, with the side files that older and other readers ask for."""

    covers = "any model, for transformers"
    types: Mapping[str, str] = {
        writer.OWN: "each tensor in its own type",
        "float32": "4 bytes a value",
        "float16": "2 bytes a value",
        "bfloat16": "2 bytes a value",
    }
    default = writer.OWN
    suffix = ""
    uses = frozenset({"max_shard_bytes", "measured"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        bare = model.directory is None and model.beside is None
        problem = "weights alone, without tokenizer, features and generation settings" if bare else ""
        return [Requirement("side files", problem, "`chorus import` makes them" if bare else ""), *_check_rows(model)]

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        return writer.nbytes(model.checkpoint, kind) + sum(p.stat().st_size for p in files_of(model).values())

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        model = settled(model)
        limit = DEFAULT_SHARD_BYTES if options.max_shard_bytes is None else options.max_shard_bytes
        stored, unsound = writer.write_weights(model, places, limit, progress)
        files = files_of(model)
        generation = whole_generation_of(model, files)
        licences = licences_of(model)
        warnings = [f"{model.label}: {line}" for line in [told(beside(model).left)] if line]
        for kind, place in places.items():
            write_json(place / "config.json", stored_config(model.config, stored[kind]))
            if generation:
                write_json(place / "generation_config.json", generation)
            warnings += copy_side_files(files, place)
            settings: JsonObject = {"to": "hf", "type": kind, "max_shard_bytes": limit}
            write_text(place / "README.md", card_of(model, stored[kind], settings, options.measured))
        if kind_of(model.config) is not None and not any(name in files for name in VOCABULARIES):
            warnings.append(f"{model.label}: no tokenizer is beside it, and none beside the result; --tokenizer DIR")
        if unsound:
            # as it is: to look at a broken training one may want just these bytes
            warnings.append(f"{model.label}: NaN or infinity in {some(unsound)}: look at how it was trained")
        warnings += licence_warnings(licences)
        facts: JsonObject = {"trained_on": lineage_of(model), "licenses": licences}
        facts |= {"not_finite": unsound} if unsound else {}
        before = {} if model.method or model.adapter_paths else facts_in(model.directory)
        return Making(facts | ({"before": before} if before else {}), list(dict.fromkeys(warnings)))

    def ours(self, path: Path) -> bool:
        return present(path / PROVENANCE)


def _check_rows(model: Model) -> list[Requirement]:
    """Whether the embedding has a row for each token. More rows than tokens are padding, as many models have it."""
    shapes = [model.checkpoint[name].shape for name in model.checkpoint if EMBEDDING.search(name)]
    # the largest: of a model with several, only one is of the tokenizer's tokens
    rows = max((shape[0] for shape in shapes if len(shape) == 2), default=None)
    found = vocabulary_of(files_of(model))
    # SentencePiece's own numbers are not the model's: slow tokenizers shift them
    if rows is None or found is None or found.form != PIECES:
        return []
    beyond = [(i, token) for i, token in sorted(found.tokens.items()) if i >= rows]
    told = some((f"{shown(token)} is {i}" for i, token in beyond), 2)
    problem = f"no row in the embedding of {rows:,} for {len(beyond):,} of its tokens ({told})" if beyond else ""
    remedy = (
        "its tokenizer is another model's: give --tokenizer DIR, the base's own; added tokens need a wider embedding"
    )
    return [Requirement("a row for each token", problem, remedy if beyond else "")]


def files_of(model: Model) -> dict[str, Path]:
    """Name -> file of all that goes with the weights, the tokenizer from where it is."""
    carried, place = dict(beside(model).carried), model.tokenizer_directory
    here = {path.parent for name, path in carried.items() if name in VOCABULARIES}
    if place is None or here == {place}:
        return carried
    # all from one place: a vocabulary and the merges of another are no tokenizer
    return {name: path for name, path in carried.items() if not is_tokenizer(name)} | tokenizer_in(place)


def whole_generation_of(model: Model, files: Mapping[str, Path]) -> JsonObject:
    """The model's generation settings, completed from its vocabulary where they lack something."""

    def ids() -> dict[str, int]:
        found = vocabulary_of(files)
        return {} if found is None else found.ids

    return completed(model.config, generation_config(model), ids)
