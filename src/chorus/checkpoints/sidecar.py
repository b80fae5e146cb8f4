"""The files beside the weights: tokenizer, processor, generation settings, in the old and the new form.

transformers 5 writes only `tokenizer.json`, `tokenizer_config.json` and `processor_config.json`; faster-whisper and
whisper.cpp's converter ask for `vocab.json`, `merges.txt`, `added_tokens.json` and `preprocessor_config.json`. The
result has both, whichever the source had.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from chorus.checkpoints.model import PROCESSOR_FILES, TOKENIZER_FILES
from chorus.checkpoints.writer import explained, write_text
from chorus.files import MAX_TOKENIZER, present, read_json, regular
from chorus.plain import JsonObject

# One of these holds a tokenizer's vocabulary: transformers 5 makes an empty tokenizer of a directory without any.
VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model", "vocab.txt", "spiece.model")


def feature_extractor_of(directory: Path | None) -> JsonObject:
    """The feature extractor's settings, from the old or the new file; empty where there are none."""
    if directory is None:
        return {}
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "feature_extractor")):
        if present(directory / name):
            settings = read_json(directory / name)
            found = settings if key is None else settings.get(key) or {}
            return found if isinstance(found, dict) else {}
    return {}


def copy_side_files(tokenizer: Path | None, processor: Path | None, out: Path) -> list[str]:
    """Copy tokenizer and processor files, then write the forms that are missing; returns warnings."""
    for source, names in ((tokenizer, TOKENIZER_FILES), (processor, PROCESSOR_FILES)):
        for name in names:
            if source is not None and present(source / name) and not (source / name).is_dir():
                regular(source / name)  # a pipe would be waited for
                with explained(out / name):
                    shutil.copyfile(source / name, out / name)
    _complete_processor(out)
    return _complete_tokenizer(out)


def _complete_processor(out: Path) -> None:
    old, new = out / "preprocessor_config.json", out / "processor_config.json"
    if not old.exists() and new.exists():
        settings = read_json(new)
        extractor = settings.get("feature_extractor")
        if isinstance(extractor, dict):
            # faster-whisper reads the number of mel bins here, and assumes 80 where there is no such file
            write_json(old, {**extractor, "processor_class": settings.get("processor_class")})
    elif old.exists() and not new.exists():
        settings = read_json(old)
        if settings.get("feature_extractor_type"):
            # WhisperFeatureExtractor -> WhisperProcessor: transformers names them alike
            name = settings.get("processor_class") or settings["feature_extractor_type"].replace(
                "FeatureExtractor", "Processor"
            )
            write_json(
                new,
                {
                    "feature_extractor": {k: v for k, v in settings.items() if k != "processor_class"},
                    "processor_class": name,
                },
            )


def _complete_tokenizer(out: Path) -> list[str]:
    """`vocab.json`, `merges.txt` and `added_tokens.json` from a byte-level BPE `tokenizer.json`."""
    path = out / "tokenizer.json"
    if not path.exists():
        return _convert_slow(out)
    tokenizer = read_json(path, limit=MAX_TOKENIZER)
    model = tokenizer.get("model") or {}
    # Unigram and WordPiece (SentencePiece, CTC letters) have no merges that could be written
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        return []
    if not (out / "vocab.json").exists():
        write_json(out / "vocab.json", model["vocab"], indent=None)
    if not (out / "merges.txt").exists():
        # tokenizers 0.20 writes pairs, older ones a text with a space between
        merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
        write_text(out / "merges.txt", "#version: 0.2\n" + "".join(f"{m}\n" for m in merges))
    # whisper.cpp's converter opens the file though it uses nothing of it
    added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", []) if t["content"] not in model["vocab"]}
    if added and not (out / "added_tokens.json").exists():
        write_json(out / "added_tokens.json", added)
    if not (out / "special_tokens_map.json").exists():
        settings = read_json(out / "tokenizer_config.json") if (out / "tokenizer_config.json").exists() else {}
        special = {k: v for k, v in settings.items() if k.endswith("_token") and isinstance(v, str | dict)}
        if special:
            write_json(out / "special_tokens_map.json", special)
    return []


def _convert_slow(out: Path) -> list[str]:
    """`tokenizer.json` from `vocab.json` and `merges.txt`, by transformers' own conversion."""
    if not ((out / "vocab.json").exists() and (out / "merges.txt").exists()):
        return []
    try:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(out, local_files_only=True).backend_tokenizer.save(str(out / "tokenizer.json"))
    except Exception as error:  # whatever transformers finds wrong with somebody's tokenizer
        return [f"tokenizer.json could not be made from vocab.json and merges.txt ({error})"]
    return []


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """JSON with a final line break, keys in their own order."""
    separators = (",", ": ") if indent else (",", ":")
    write_text(path, json.dumps(value, indent=indent, separators=separators, ensure_ascii=False) + "\n")
