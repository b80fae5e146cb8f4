"""`chorus.import_model`: a Hugging Face directory of a file of another runtime, with all that such a file lacks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from chorus.checkpoints.beside import beside, is_processor, is_tokenizer, tokenizer_in
from chorus.checkpoints.formats import format_of
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import open_model
from chorus.checkpoints.output_place import place_of, refuse_input
from chorus.checkpoints.sidecar import VOCABULARIES, write_json
from chorus.errors import CheckpointError, UsageError, some
from chorus.export import whisper
from chorus.export.api import Exported, export, tokenizer_at
from chorus.export.ggml.reader import GgmlForm, read
from chorus.export.hf.whisper_files import features_of, generation_of, write_tokenizer, write_tokenizer_config
from chorus.export.protocol import ExportOptions
from chorus.files import expanded, present
from chorus.models.whisper_tokens import END, ENGLISH, special_ids
from chorus.progress import Progress

RANKS = {True: "gpt2.tiktoken", False: "multilingual.tiktoken"}  # openai-whisper's assets: of English alone, of all
NONE = "give --tokenizer: a tokenizer's directory or a .tiktoken file of the model that it was made from"


def import_model(
    source: str | Path,
    output: str | Path,
    *,
    types: str | Sequence[str] = (),
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
    max_shard_bytes: int | None = None,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write the Hugging Face directory of a ggml file, an openai-whisper `.pt`, or any form of `chorus.formats`.

    Quantised values become float32, others keep their type unless `types` names one. `tokenizer` is a tokenizer's
    directory or file, or a `.tiktoken`; without it the file's own table is taken, else openai-whisper's, where that is
    installed. Generation settings are computed from the vocabulary where the file has none.

    Raises `CheckpointError` for a damaged file, a form that nobody knows, or a tokenizer that is missing or another
    model's; `OutputError` where the result cannot be written.

    >>> chorus.import_model("ggml-base-q5_0.bin", "base")  # doctest: +SKIP
    """
    place, into = expanded(source), Path(expanded(output))
    place_of(into)  # before anything is read: the file may take minutes
    form = format_of(place) if place.exists() else None
    if form is None and (place / "config.json").is_file():
        raise UsageError(f"{place}: a Hugging Face directory already", "chorus export --to hf writes it otherwise")
    model = open_model(place, options)
    refuse_input(into, model.places)
    if not whisper.is_whisper(model):
        kind = model.config.get("model_type") or "unknown"
        raise CheckpointError(f"{place}: a model of the type {kind}", "import knows Whispers")
    settings = ExportOptions(max_shard_bytes=max_shard_bytes)
    known = None if tokenizer is None else tokenizer_at(tokenizer, options or OpenOptions())
    with tempfile.TemporaryDirectory() as folder:
        whole = _with_side_files(model, place, Path(folder), known)
        return export(whole, into, "hf", types=types, overwrite=overwrite, settings=settings, progress=progress)


def _with_side_files(model: Model, place: Path, folder: Path, tokenizer: Path | None) -> Model:
    """The model with tokenizer, features and generation settings; those that it lacks are made in a folder."""
    # a tokenizer that is named goes before the one beside the file, which may be why somebody names one
    there = beside(model).carried if tokenizer is None else {}
    files = {name: path for name, path in there.items() if is_tokenizer(name)}
    if not any(name in files for name in VOCABULARIES):
        files = _tokenizer(model, place, folder, tokenizer)
    size = int(model.config["vocab_size"])
    # CTranslate2's directories have the tokenizer without its config, by which transformers knows its kind
    if "tokenizer.json" in files and "tokenizer_config.json" not in files and size in whisper.SIZES:
        write_tokenizer_config(folder, size)
        files["tokenizer_config.json"] = folder / "tokenizer_config.json"
    features = {name: path for name, path in beside(model).carried.items() if is_processor(name)}
    if not features:
        write_json(folder / "preprocessor_config.json", features_of(model.config))
        features = {"preprocessor_config.json": folder / "preprocessor_config.json"}
    whole = replace(model, beside=files | features, tokenizer_directory=None)
    ids = whisper.token_ids(whole)
    # of a vocabulary that was grown nobody knows the order: its tokenizer's word is taken
    wrong = whisper.misplaced(ids, size) if size in whisper.SIZES else []
    if wrong or END not in ids:
        told = some((f"{name} is {mine}, not {theirs}" for name, mine, theirs in wrong), 2) or f"it has no {END}"
        raise CheckpointError(f"{place}: the tokenizer is another model's: {told}", NONE)
    if model.generation is not None:
        return whole
    tokens = whisper.text_tokens(whole, size) if size in whisper.SIZES else []
    return replace(whole, generation=generation_of(model.config, tokens, ids, str(place)) if tokens else None)


def _tokenizer(model: Model, place: Path, folder: Path, tokenizer: Path | None) -> dict[str, Path]:
    """The files of the tokenizer that is named, or of one that is made of a table of tokens."""
    named = {} if tokenizer is None else tokenizer_in(tokenizer)
    if any(name in named for name in VOCABULARIES):
        return {name: path for name, path in named.items() if not name.endswith(".tiktoken")}
    size = int(model.config["vocab_size"])
    if size not in whisper.SIZES:
        known = ", ".join(f"{n:,}" for n in whisper.SIZES)
        raise CheckpointError(f"{place}: {size:,} tokens, which none of Whisper's vocabularies has ({known})", NONE)
    tokens = _table(place, named, tokenizer, english=size == ENGLISH)
    # the last of a multilingual one is empty, and old tables leave it out
    count = special_ids(size)[END] - (size != ENGLISH)
    if len(tokens) < count:
        raise CheckpointError(f"{place}: a table of {len(tokens):,} text tokens, of {count:,} that it has", NONE)
    write_tokenizer(folder, [*tokens[:count], *([b""] if size != ENGLISH else [])], size, str(tokenizer or place))
    return {name: folder / name for name in ("tokenizer.json", "tokenizer_config.json")}


def _table(place: Path, named: dict[str, Path], tokenizer: Path | None, *, english: bool) -> list[bytes]:
    """The text tokens by rank: of the tokenizer that is named, of the file itself, of openai-whisper's assets."""
    if tokenizer is not None:
        ranks = named.get(RANKS[english]) or next(iter(named.values()), None)
        if ranks is None:
            raise CheckpointError(f"{tokenizer}: no tokenizer ({', '.join(VOCABULARIES[:2])}, .tiktoken)", NONE)
        return whisper.ranked_tokens(ranks)
    if GgmlForm().takes(place):
        return read(place).tokens
    # looked up, not imported: it would bring in torch and numba for two files of text
    package = find_spec("whisper")
    assets = Path(package.origin).parent / "assets" if package is not None and package.origin else None
    if assets is None or not present(assets / RANKS[english]):
        raise CheckpointError(f"{place}: holds no tokenizer, and openai-whisper is not installed", NONE)
    return whisper.ranked_tokens(assets / RANKS[english])
