"""What a directory holds that is not what was looked for, and where that lies: as trainers and caches leave it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

ADAPTER = "adapter_config.json"
# files that hold a model in another form -> what to do with them
OTHERS = {
    ".gguf": "GGUF is made from a model: name that model",
    ".nemo": "a NeMo archive: convert it to transformers first",
    ".ckpt": "a Lightning checkpoint: load it and call save_pretrained",
    ".onnx": "ONNX is made from a model: name that model",
}


def remedy_in(directory: Path, wanted: str = "config.json") -> str:
    """What to name in the place of a directory that lacks `config.json` (or an adapter's config); empty if unknown."""
    try:
        inside = sorted(directory.iterdir())
    except OSError:
        return ""
    return _cached(directory) or _below(directory, wanted) or _by_trainers(directory, inside)


def _cached(directory: Path) -> str:
    """The hub's cache: `models--org--name/snapshots/COMMIT`."""
    found = re.fullmatch(r"models--([\w.-]+?)--([\w.-]+)|models--([\w.-]+)", directory.name)
    snapshots = sorted(path for path in (directory / "snapshots").glob("*") if path.is_dir())
    if not found or not snapshots:
        return ""
    name = found[3] or f"{found[1]}/{found[2]}"
    return f"a folder of the hub's cache: name {name}, or {snapshots[-1]}"


def _below(directory: Path, wanted: str) -> str:
    """A directory inside, or one level further down, that is what was looked for."""
    kind = "adapter" if wanted == ADAPTER else "model"
    other = "config.json" if wanted == ADAPTER else ADAPTER
    another = "a model" if kind == "adapter" else "an adapter"
    for name, words in ((wanted, "did you mean {}?"), (other, f"{another} lies inside: {{}}")):
        places = {path.parent for depth in ("*", "*/*") for path in directory.glob(f"{depth}/{name}")}
        if places:
            more = f" ({len(places) - 1} more lie beside it)" if len(places) > 1 else ""
            return words.format(max(places, key=_order)) + more
    return ""


def _order(path: Path) -> tuple[int, str]:
    """The last of checkpoint-100, checkpoint-2000 is the one of the most steps."""
    number = re.search(r"(\d+)$", path.name)
    return (int(number[1]) if number else -1, str(path))


def _by_trainers(directory: Path, inside: list[Path]) -> str:
    names = [path.name for path in inside]
    deepspeed = re.compile(r"global_step\d+$|zero_to_fp32\.py$|.*_(model|optim)_states\.pt$")
    if deepspeed.match(directory.name) or any(deepspeed.match(name) for name in names):
        # the script stands beside the folder of the step, and takes the folder that holds both
        home = directory.parent if re.match(r"global_step\d+$", directory.name) else directory
        return f"a DeepSpeed checkpoint: python {home / 'zero_to_fp32.py'} {home} OUT gathers the weights"
    if any(name.endswith(".distcp") or name.startswith("pytorch_model_fsdp") for name in names):
        return f"an FSDP checkpoint in parts: accelerate merge-weights {directory} OUT gathers them"
    downloads = directory / ".cache" / "huggingface" / "download"
    if any(path.suffix == ".incomplete" for path in (*inside, *downloads.glob("*"))):
        return "a download that did not end: begin it again, and it goes on"
    for path in inside:
        if path.suffix in OTHERS:
            return f"{path.name}: {OTHERS[path.suffix]}"
    return ""


def nearest_path(path: Path) -> str:
    """What lies beside a path that is not there and is called nearly so, as a phrase to end a message with."""
    missing = path
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    try:
        matches = list(_alike(missing))
    except OSError:
        return ""
    return f"; did you mean {matches[0]}?" if matches else ""


def _alike(missing: Path) -> Iterator[Path]:
    names = sorted(path.name for path in missing.parent.iterdir() if not path.name.startswith("."))
    for name in difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6):
        yield missing.parent / name
