"""What faster-whisper and CTranslate2 read beside the weights: vocabulary, settings, tokenizer, front end."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from chorus.checkpoints.model import Model
from chorus.checkpoints.sidecar import copy_side_files, feature_extractor_of, write_json
from chorus.checkpoints.writer import write_text
from chorus.errors import CheckpointError
from chorus.export.hf.whisper_files import features_of
from chorus.export.whisper import SIZES, token_ids, tokenizer_files
from chorus.files import present, read_json
from chorus.models.generation import generation_config
from chorus.models.whisper import whole_generation
from chorus.models.whisper_tokens import NO_TIMESTAMPS, special_ids
from chorus.plain import JsonMap, JsonObject

VOCABULARY, SETTINGS, TOKENIZER, FRONT_END = (
    "vocabulary.json", "config.json", "tokenizer.json", "preprocessor_config.json",
)  # fmt: skip
STEP_S = 0.02  # between two tokens of times


def write(model: Model, folder: Path, size: int) -> list[str]:
    """Write all of them; what there is to think about."""
    ids = token_ids(model)
    settings, warnings = settings_of(model, ids, size)
    write_text(folder / SETTINGS, json.dumps(settings, indent=2, sort_keys=True) + "\n")
    write_text(folder / VOCABULARY, json.dumps(vocabulary(ids, size), indent=2))
    _tokenizer(model, folder)
    _front_end(model, folder)
    return warnings


def generation_of(model: Model, ids: Mapping[str, int]) -> JsonObject:
    """The model's generation settings, completed from config and tokenizer as loading completes them."""
    return whole_generation(model.config, generation_config(model), ids)


def settings_of(model: Model, ids: Mapping[str, int], size: int) -> tuple[JsonObject, list[str]]:
    """CTranslate2's config.json, and what was left out of it: it trusts every number there."""
    generation, warnings = generation_of(model, ids), []
    layers, heads = int(model.config["decoder_layers"]), int(model.config["decoder_attention_heads"])
    usual = [[i, j] for i in range(layers // 2, layers) for j in range(heads)]  # as openai-whisper has it
    aligned = generation.get("alignment_heads")
    possible = [[i, j] for i in range(layers) for j in range(heads)]
    if aligned is not None and any(list(pair) not in possible for pair in aligned):
        warnings.append(
            f"{model.label}: heads of alignment that its {layers} layers do not have: words are timed by the usual ones"
        )
        aligned = None
    languages = sorted((generation.get("lang_to_id") or {}).values())
    found: JsonObject = {"alignment_heads": usual if aligned is None else aligned, "lang_ids": languages}
    for here, there in (("suppress_ids", "suppress_tokens"), ("suppress_ids_begin", "begin_suppress_tokens")):
        listed = generation.get(there)
        if listed is not None and any(i not in range(size) for i in listed):
            warnings.append(f"{model.label}: {there} names tokens that there are not; they are left out")
            listed = [i for i in listed if i in range(size)]
        found[here] = listed
    return found, warnings


def vocabulary(ids: Mapping[str, int], size: int) -> list[str]:
    """Every token by its number; what the tokenizer does not name is a time, as in Whisper's first tokenizers."""
    known = {i: token for token, i in ids.items()}
    usual = {i: token for token, i in special_ids(size).items()} if size in SIZES else {}
    first = ids[NO_TIMESTAMPS] + 1
    return [
        known.get(i) or usual.get(i) or (f"<|{(i - first) * STEP_S:.2f}|>" if i >= first else "") for i in range(size)
    ]


def _tokenizer(model: Model, folder: Path) -> None:
    files = tokenizer_files(model)
    if TOKENIZER in files:
        shutil.copyfile(files[TOKENIZER], folder / TOKENIZER)
        return
    with tempfile.TemporaryDirectory(dir=folder) as made:
        told = copy_side_files(files, Path(made))
        if not (Path(made) / TOKENIZER).exists():
            raise CheckpointError(f"{model.label}: {'; '.join(told) or 'no tokenizer.json could be made'}", REMEDY)
        shutil.move(Path(made) / TOKENIZER, folder / TOKENIZER)


REMEDY = "give --tokenizer DIR with the base's tokenizer.json (`chorus import` makes one of a ggml file)"


def front_end(model: Model) -> JsonObject:
    """The feature extractor's settings; every Whisper's usual ones where the model has none beside it."""
    return feature_extractor_of(model.directory) or features_of(model.config)


def _front_end(model: Model, folder: Path) -> None:
    wanted = front_end(model)
    # transformers 5 writes processor_config.json alone; faster-whisper assumes 80 mel bins without the old file
    old = model.directory / FRONT_END if model.directory else None
    if old is not None and present(old) and read_json(old) == wanted:
        shutil.copyfile(old, folder / FRONT_END)
    else:
        write_json(folder / FRONT_END, {"processor_class": "WhisperProcessor", **wanted})


def problems_of_front_end(model: Model) -> Iterator[str]:
    """Where it is not what the encoder takes."""
    found: JsonMap = front_end(model)
    bins, wanted = found.get("feature_size", 80), int(model.config["num_mel_bins"])
    if bins != wanted:
        yield f"its front end makes {bins} mel bins, its encoder takes {wanted}"
