"""The files beside the weights: copied, and the old forms made of the new where runtimes ask for them.

transformers 5 writes only `tokenizer.json`, `tokenizer_config.json` and `processor_config.json`; faster-whisper and
whisper.cpp's converter ask for `vocab.json`, `merges.txt`, `added_tokens.json` and `preprocessor_config.json`. Not the
other way round: every transformers reads the old processor form, those up to 4.55 stumble over the new one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from chorus.checkpoints.writer import explained, write_text
from chorus.files import MAX_CONFIG, MAX_TOKENIZER, present, read_bytes, read_json, regular
from chorus.plain import JsonObject

# One of these holds a tokenizer's vocabulary: transformers 5 makes an empty tokenizer of a directory without any.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "tokenizer.model",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "tekken.json",
)


def feature_extractor_of(directory: Path | None) -> JsonObject:
    """The feature extractor's settings, from the file that transformers prefers; empty where there are none."""
    if directory is None:
        return {}
    new, old = directory / "processor_config.json", directory / "preprocessor_config.json"
    nested = read_json(new) if present(new) else {}
    for key in ("feature_extractor", "audio_processor"):
        if isinstance(nested.get(key), dict):
            return dict(nested[key])
    return read_json(old) if present(old) else {}


def chat_template_of(files: Mapping[str, Path]) -> bool:
    """Whether there is a chat template among a tokenizer's files, or inside one of them."""
    if any(name.startswith("chat_template.") for name in files):
        return True
    config = files.get("tokenizer_config.json")
    # looked for as bytes first: Whisper's describes 1,600 tokens, and a plan has ten of them
    if config is None or b'"chat_template"' not in read_bytes(config, MAX_CONFIG):
        return False
    return bool(read_json(config).get("chat_template"))


def copy_side_files(files: Mapping[str, Path], out: Path) -> list[str]:
    """Copy files under their names, then write the old forms that are missing; returns warnings."""
    for name, path in files.items():
        regular(path)
        with explained(out / name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
    _complete_processor(out)
    return _complete_tokenizer(out)


def _complete_processor(out: Path) -> None:
    old, new = out / "preprocessor_config.json", out / "processor_config.json"
    if not present(new) or present(old):
        return
    settings = read_json(new)
    extractor = settings.get("feature_extractor")
    if isinstance(extractor, dict):
        # faster-whisper reads the number of mel bins here, and assumes 80 where there is no such file
        write_json(old, {**extractor, "processor_class": settings.get("processor_class")})


def _complete_tokenizer(out: Path) -> list[str]:
    """`vocab.json`, `merges.txt` and `added_tokens.json` from a byte-level BPE `tokenizer.json`."""
    path = out / "tokenizer.json"
    if not path.exists():
        return _convert_slow(out)
    tokenizer = read_json(path, limit=MAX_TOKENIZER)
    model = tokenizer.get("model")
    # Unigram and WordPiece (SentencePiece, CTC letters) have no merges that could be written
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        return []
    try:
        # tokenizers 0.20 writes pairs, older ones a text with a space between
        merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
        added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", []) if t["content"] not in model["vocab"]}
    except (KeyError, TypeError):  # somebody's file: no tokenizer of transformers', but carried as it is
        return ["tokenizer.json is of an unknown form: no vocab.json and merges.txt are made of it"]
    if not (out / "vocab.json").exists():
        write_json(out / "vocab.json", model["vocab"], indent=None)
    if not (out / "merges.txt").exists():
        write_text(out / "merges.txt", "#version: 0.2\n" + "".join(f"{m}\n" for m in merges))
    # whisper.cpp's converter opens the file though it uses nothing of it
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
