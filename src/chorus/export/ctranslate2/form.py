"""CTranslate2's directory as a model that every command opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chorus.checkpoints.formats import FORMATS
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.model import PROCESSOR_FILES, TOKENIZER_FILES, Model, OpenOptions
from chorus.checkpoints.weights import is_converted
from chorus.errors import CheckpointError
from chorus.export.ctranslate2.layout import WEIGHTS
from chorus.export.ctranslate2.reader import open_weights
from chorus.export.ctranslate2.side_files import SETTINGS, VOCABULARY
from chorus.files import MAX_TOKENIZER, parse_json, present, read_json, read_text
from chorus.models.whisper import whole_generation
from chorus.plain import JsonMap, JsonObject

OLD_VOCABULARY = "vocabulary.txt"  # of converters before 2023: a token a line


class CTranslate2Form:
    """faster-whisper's directory, or the `model.bin` in it, as a form of model (see chorus.checkpoints.formats)."""

    def takes(self, path: Path) -> bool:
        if path.is_dir():
            return is_converted(path)
        return path.name == WEIGHTS and _begins_so(path)

    def open(self, path: Path, part: str, label: str, options: OpenOptions) -> Model:
        return open_converted(path if path.is_dir() else path.parent, label)


def _begins_so(path: Path) -> bool:
    """Whether a file begins as CTranslate2's do: version, then the name of what it holds."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(70)
    return head[1:4] == b"\0\0\0" and b"Spec\0" in head


def open_converted(place: Path, label: str) -> Model:
    """The model, no matrix read; `CheckpointError` where it is damaged, or no Whisper."""
    tensors, config = open_weights(place)
    ids, size = _ids(place), int(config["vocab_size"])
    if ids and len(ids) != size:
        raise CheckpointError(
            f"{place}: {len(ids):,} tokens in its vocabulary, {size:,} in its weights", "convert or download it again"
        )
    carried = {name: place / name for name in (*TOKENIZER_FILES, *PROCESSOR_FILES) if (place / name).is_file()}
    return Model(
        label, Checkpoint(tensors, label), config, place, paths={WEIGHTS: place / WEIGHTS}, beside=carried,
        generation=_generation(place, config, ids),
    )  # fmt: skip


def _ids(place: Path) -> dict[str, int]:
    """The vocabulary's tokens by number; empty where there is none."""
    if present(place / VOCABULARY):
        found = parse_json(read_text(place / VOCABULARY, MAX_TOKENIZER), place / VOCABULARY)
        if not isinstance(found, list) or not all(isinstance(token, str) for token in found):
            raise CheckpointError(f"{place / VOCABULARY}: no list of tokens", "convert or download it again")
    elif present(place / OLD_VOCABULARY):
        found = read_text(place / OLD_VOCABULARY, MAX_TOKENIZER).removesuffix("\n").split("\n")
    else:
        return {}
    return {token: i for i, token in enumerate(found)}


def _generation(place: Path, config: JsonMap, ids: Mapping[str, int]) -> JsonObject:
    """transformers' generation settings of CTranslate2's, completed by the vocabulary."""
    own = read_json(place / SETTINGS) if present(place / SETTINGS) else {}
    found: JsonObject = {
        there: own[here]
        for here, there in (
            ("suppress_ids", "suppress_tokens"), ("suppress_ids_begin", "begin_suppress_tokens"),
            ("alignment_heads", "alignment_heads"),
        )
        if isinstance(own.get(here), list)
    }  # fmt: skip
    start = {"bos_token_id": config["bos_token_id"], "max_length": config["max_target_positions"]}
    return {**start, **whole_generation(config, found, ids)}


FORMATS.add("ctranslate2", CTranslate2Form())
