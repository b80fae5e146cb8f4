"""What lies beside the weights, and which of it goes with the model: everything but what is listed here.

Which files a model needs nobody can list: tokenizers, speakers, language models and code have names of their own. What
must not be carried can be listed: weights in any form, what a training leaves, caches, what others made of the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath

from chorus.checkpoints.model import PROCESSOR_FILES, TOKENIZER_FILES, Model
from chorus.checkpoints.weights import Files, OnDisk
from chorus.errors import some
from chorus.plain import JsonMap

WEIGHTS, TRAINING, EXPORTS, OTHER = "weights", "of a training", "other forms of the model", "no part of the model"

# Left, by what they are: patterns of a file's own name, in lower case.
FILES = {
    WEIGHTS: (
        "*.safetensors", "*.safetensors.index*.json", "pytorch_model*", "model*.bin", "model*.pt", "consolidated*",
        "*.pth", "*.ckpt", "*.distcp", "weights.npz", "params.json", "adapter_model*", "adapter_config.json",
    ),
    TRAINING: (
        "optimizer*", "scheduler.pt", "scheduler.bin", "scaler.pt", "rng_state*", "random_states*",
        "trainer_state.json", "training_args*", "*_states.pt", "zero_to_fp32.py", "latest", "events.out.*", "*.log",
        "*results.json", "*results.txt", "log_*", "*_predictions*", "*.parquet", "*.arrow", "*.sh", "eval.py",
        "train.py", "finetune.py", "run_*.py",
    ),
    EXPORTS: (
        "*.gguf", "*.ggml", "ggml-*", "*.onnx", "*.onnx[._]data*", "*.h5", "*.msgpack", "*.tflite", "*.mlmodel",
        "openvino_*", "*.ot", "*.nemo", "*.engine", "*.pte", "*.pt2", "*.ptl", "*.llamafile", "imatrix*.dat",
        "openai-*.pt", "openai-*.pt.json", "*.gguf.json", "modelfile*",
        "quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json",
    ),
    OTHER: ("mergekit*.yml", "mergekit*.yaml", "recipe.yaml", "*.zip", "*.tar", "*.tgz", "*.tar.gz"),
}  # fmt: skip
FOLDERS = {
    TRAINING: (
        "checkpoint-*", "checkpoint_*", "global_step*", "runs", "logs", "wandb", "mlruns", "lightning_logs",
        "tensorboard", "eval", "evals", "eval_results", "results",
    ),
    EXPORTS: ("original", "onnx", "openvino", "coreml", "*.mlpackage", "tflite", "gguf", "ggml", "ctranslate2", "mlx"),
    OTHER: ("data", "dataset", "datasets"),
}  # fmt: skip
# Left without a word: written anew, or nobody's wish.
MADE = ("config.json", "generation_config.json", "chorus.json", "curve.png", "readme*", "model.safetensors.index.json")
HIDDEN = (".*", "__pycache__", "*.pyc", "*.tmp", "*.lock", "*~", "thumbs.db")
OWN_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")  # of a model whose config counts on it
PICKLED, LARGE = (".pt", ".bin", ".pkl", ".npz"), 100_000_000  # bytes
SHOWN = 6  # names of a kind that is left
MOST = 1000  # files of a folder that is carried; more are a data set


@dataclass
class Beside:
    """The files to carry, by name (`folder/file`) with their places; and what is left, by what it is."""

    carried: dict[str, Path] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """What the carried files take: a language model may be larger than the weights."""
        return sum(path.stat().st_size for path in self.carried.values() if path.exists())

    def leave(self, kind: str, name: str) -> None:
        self.left.setdefault(kind, []).append(name)


def what_left(name: str) -> str | None:
    """What a file (`folder/file`) is that is not carried; None where it is, "" where no word is lost on it.

    >>> what_left("onnx/model.onnx"), what_left("tekken.json"), what_left(".gitattributes")
    ('other forms of the model', None, '')
    """
    # a folder that was not looked into stands for what it holds
    *folders, file = PurePosixPath(f"{name.lower()}*" if name.endswith("/") else name.lower()).parts
    if _matches(file, HIDDEN) or any(_matches(folder, HIDDEN) for folder in folders):
        return ""
    if not folders and _matches(file, MADE):
        return ""
    for table, parts in ((FOLDERS, folders), (FILES, [file])):
        for kind, patterns in table.items():
            if any(_matches(part, patterns) for part in parts):
                return kind
    return OTHER if name.endswith("/") else None


def is_tokenizer(name: str) -> bool:
    """Whether a file is of the tokenizer: these are carried together, from one model."""
    return name in TOKENIZER_FILES or name.endswith((".tiktoken", ".spm")) or name.startswith("additional_chat_templ")


def tokenizer_in(place: Path) -> dict[str, Path]:
    """Name -> file of a tokenizer that lies in a directory, or is one file."""
    found = [place] if place.is_file() else sorted(place.iterdir())
    return {path.name: path for path in found if path.is_file() and is_tokenizer(path.name)}


def is_processor(name: str) -> bool:
    return name in PROCESSOR_FILES


def beside(model: Model) -> Beside:
    """What lies beside a model's weights. Nothing is opened but small configs."""
    if model.beside is not None:
        return Beside(dict(model.beside))
    if model.directory is None:
        return Beside()
    found = sort_out(list_files(model.directory), OnDisk(model.directory), model.directory, model.config)
    # the weights that are read are no other weights
    unread = {kind: [name for name in names if name not in model.paths] for kind, names in found.left.items()}
    return Beside(found.carried, {kind: names for kind, names in unread.items() if names})


def list_files(directory: Path) -> list[str]:
    """The names of all that might be carried, or missed, in order; folders that are left end with a slash.

    Of a folder no more than shows that it is a data set.
    """
    found: list[str] = []
    for name in _entries(directory, ""):
        found += islice(_within(directory, name, 4), MOST + 1) if name.endswith("/") else [name]
    return found


def _within(directory: Path, folder: str, depth: int) -> Iterator[str]:
    """The files of a folder and of those in it; what is left, or lies too deep, by its folder's name."""
    if what_left(f"{folder}*") is not None or depth == 0:
        yield folder
        return
    for name in _entries(directory, folder):
        if name.endswith("/"):
            yield from _within(directory, name, depth - 1)
        else:
            yield name


def _entries(directory: Path, folder: str) -> list[str]:
    """Names in a folder, its own before them, folders with a slash; links to folders may lead in circles, or out."""
    entries = os.scandir(directory / folder)
    return sorted(f"{folder}{e.name}{'/' if e.is_dir(follow_symlinks=False) else ''}" for e in entries)


def sort_out(names: Iterable[str], files: Files, directory: Path, config: JsonMap) -> Beside:
    """Which of these names go with the model, with the places that they have or will have in `directory`."""
    found = Beside()
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, slash, rest = name.partition("/")
        if slash and rest:
            folders.setdefault(folder, []).append(name)
        else:
            _sort(found, name, files, directory, own=bool(config.get("has_lora_adapter")))
    for folder, inside in sorted(folders.items()):
        why = _whole_folder(folder, inside, files, config)
        if why is None:
            found.carried |= {name: directory / name for name in inside}
        elif why:
            found.leave(why, f"{folder}/")
        else:
            for name in inside:
                _sort(found, name, files, directory)
    return found


def _sort(found: Beside, name: str, files: Files, directory: Path, *, own: bool = False) -> None:
    # Granite Speech loads it with the weights, and hears by it: without it the class only logs that something lacks
    kind = None if own and name in OWN_ADAPTER else what_left(name)
    # a tokenizer that is no file is refused where it is read: without it the result would not be what is expected
    if kind is None and not (is_tokenizer(name) or is_processor(name)):
        kind = files.odd(name) or (WEIGHTS if _other_weights(name, files) else None)
    if kind is None:
        found.carried[name] = directory / name
    elif kind:
        found.leave(kind, name)


def _other_weights(name: str, files: Files) -> bool:
    """Whether a file is as large as weights are, in a form that holds them: speakers and the like are small."""
    return "/" not in name and name.lower().endswith(PICKLED) and files.size(name) > LARGE


def _whole_folder(folder: str, inside: list[str], files: Files, config: JsonMap) -> str | None:
    """Whether a folder is carried whole, weights and all (None), left whole (why), or looked at by file ("")."""
    whole = {what_left(f"{folder}/*")} - {None, ""}
    if whole:
        return whole.pop()
    if len(inside) > MOST:
        return f"folders of more than {MOST} files"
    kinds = {what_left(name) for name in inside}
    if WEIGHTS not in kinds:
        return ""
    # weights in a folder: a part with a config of another type (a vocoder), or the model once more
    own = f"{folder}/config.json"
    kind = files.json(own).get("model_type") if own in inside else None
    part = isinstance(kind, str) and kind != config.get("model_type")
    return None if part and kinds <= {None, WEIGHTS, ""} else WEIGHTS


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def told(left: Mapping[str, Iterable[str]]) -> str:
    """What is not carried, in a line; empty where it is nothing.

    >>> told({"weights": ["model.bin"], "of a training": ["runs/", "optimizer.pt"]})
    'not carried: model.bin (weights); runs/, optimizer.pt (of a training)'
    """
    parts = [f"{some(names, SHOWN)} ({kind})" for kind, names in left.items() if names]
    return f"not carried: {'; '.join(parts)}" if parts else ""
