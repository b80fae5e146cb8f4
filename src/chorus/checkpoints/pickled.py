"""Pickled checkpoints: `pytorch_model*.bin`, openai-whisper's `.pt`, SALMONN's. Only on request, and weights only."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.architectures.openai_whisper import transformers_config, transformers_name
from chorus.checkpoints.dtypes import DTYPES
from chorus.checkpoints.lazy_tensor import Checkpoint, MemoryTensor, each_once
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.salmonn import WEIGHTS, is_state, open_salmonn
from chorus.checkpoints.weights import WeightFiles, refuse_pickle
from chorus.errors import CheckpointError
from chorus.files import opened, printable, refuse_pointer, shown
from chorus.lazy import lazy
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

# how torch's files begin: since 1.6 as a zip archive, before as a pickle (protocol 2 on), in 2016 as a tar archive
ZIP, PICKLED, PROTOCOLS, TAR, TAR_AT = b"PK\x03\x04", b"\x80", (b"\x02", b"\x03", b"\x04", b"\x05"), b"ustar", 257
HEAD = TAR_AT + len(TAR)


def load_pickle(path: Path, allow_pickle: bool) -> object:
    """Unpickle tensors and plain containers, nothing that could run code; only with `--allow-pickle`."""
    _refuse_others(path)
    refuse_pickle(path, allow_pickle)
    _refuse_packed(path)
    try:
        # weights_only is torch's default only since 2.6; mmap refuses files from before torch 1.6 (no zip archive)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged or a dangerous file
        raise CheckpointError(
            f"{path}: cannot be loaded as plain tensors ({type(error).__name__})",
            "the file is damaged, or holds more than tensors; convert it to safetensors where you trust it",
        ) from error


def _refuse_others(path: Path) -> None:
    """Refuse what no flag opens, so that none is asked for: no checkpoint at all, or the first part of one."""
    with opened(path, what="checkpoint") as file:
        head = file.read(HEAD)
    refuse_pointer(head, path)
    if head.startswith(ZIP):
        if not zipfile.is_zipfile(path):  # an archive's table of files is at its end
            raise CheckpointError(f"{path}: cut short or damaged: its end is missing", "download it again")
    elif not (head[:1] == PICKLED and head[1:2] in PROTOCOLS) and head[TAR_AT:] != TAR:
        told = "no model file: neither torch's archive nor a pickle" if head else "an empty file"
        raise CheckpointError(f"{path}: {told}", "name a model directory, a hub id, or a model's file")


def _refuse_packed(path: Path) -> None:
    """Refuse an archive that unpacks to more than lies there: a few bytes of it could take all memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # none, or damaged, which torch tells
        return
    if packed:
        raise CheckpointError(
            f"{path}: a compressed archive, which torch does not write (its tensors lie in it as they are)",
            "download it again, or save it with torch.save",
        )


def open_pickles(directory: Path, chosen: WeightFiles, config: JsonObject, label: str, allow_pickle: bool) -> Model:
    """A model directory whose weights are `pytorch_model.bin`, whole or in shards."""
    paths = {name: directory / name for name in chosen.names}
    states = ((_weights_in(load_pickle(file, allow_pickle)), file) for file in paths.values())
    tensors = each_once((t for state, file in states for t in _tensors_of(state, file).values()), label)
    _drop_shared(tensors, config)
    return Model(label, Checkpoint(tensors, label), config, directory, paths=paths, warnings=list(chosen.warnings))


def _weights_in(state: object) -> object:
    # PyTorch Lightning puts the weights one level down, beside the optimiser's
    return state.get("state_dict", state) if isinstance(state, dict) else state


def open_pickled_tensors(path: Path, *, allow_pickle: bool) -> dict[str, MemoryTensor]:
    """The tensors of one pickled file that holds nothing else."""
    return _tensors_of(load_pickle(path, allow_pickle), path)


def open_pickled(path: Path, label: str, allow_pickle: bool) -> Model:
    """openai-whisper's `.pt`: ten dimensions and a state dict under its own names. Or what is SALMONN's."""
    state = load_pickle(path, allow_pickle)
    if isinstance(state, dict) and is_state(state):
        return open_salmonn(path, label, state, _tensors_of(state[WEIGHTS], path))
    if not isinstance(state, dict) or not {"dims", "model_state_dict"} <= set(state):
        raise CheckpointError(
            f"{path}: not an openai-whisper checkpoint, nor SALMONN's",
            "expected the keys dims and model_state_dict; or model, with tensors of speech_Qformer and the like",
        )
    found = _tensors_of(state["model_state_dict"], path)
    tensors = {
        new: MemoryTensor(new, t.value, path) for new, t in ((transformers_name(n), t) for n, t in found.items())
    }
    if len(tensors) < len(found):
        raise CheckpointError(f"{path}: two of its tensors are one in transformers' names", "download it again")
    config = transformers_config(_dims(state["dims"], path))
    for side in ("encoder", "decoder"):  # the inner width is no dimension of theirs: what is stored tells it
        inner = tensors.get(f"model.{side}.layers.0.fc1.bias")
        if inner is not None:
            config[f"{side}_ffn_dim"] = inner.shape[0]
    return Model(label, Checkpoint(tensors, label), config, None, paths={path.name: path})


def _dims(dims: object, path: Path) -> dict[str, int]:
    """openai-whisper's ten dimensions, each a number of layers, heads or values that there may be."""
    if not isinstance(dims, dict) or not all(type(dims.get(k)) is int and 0 < dims[k] < 10**6 for k in DIMS):
        raise CheckpointError(f"{path}: not the dimensions of openai-whisper ({', '.join(DIMS)})", "download it again")
    return {name: dims[name] for name in DIMS}


def _tensors_of(state: object, path: Path) -> dict[str, MemoryTensor]:
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: not a flat map of names to tensors", "save the model's state_dict alone")
    for name, value in state.items():
        if not isinstance(name, str) or printable(name) != name:
            raise CheckpointError(f"{path}: {shown(repr(name))} is no name of a tensor", "save the model again")
        if fault := _fault(value):
            raise CheckpointError(f"{path}: tensor {name} is {fault}", "save the model again, with plain tensors")
    return {name: MemoryTensor(name, value, path) for name, value in state.items()}


def _fault(value: torch.Tensor) -> str:
    """What keeps a tensor from being values one after the other; empty where nothing does."""
    if value.is_meta:
        return "without values (on the meta device)"
    if value.is_quantized or value.layout != torch.strided or value.is_nested:
        return "quantised" if value.is_quantized else "not dense"
    # a view that repeats its values may be of any size, and is written out in full
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"{value.numel():,} values wide, of which the file holds fewer"
    dtype = str(value.dtype).removeprefix("torch.")
    return "" if dtype in DTYPES else f"of the type {dtype}, which no safetensors file of a model has"


def _drop_shared(tensors: dict[str, MemoryTensor], config: JsonObject) -> None:
    """Pickles hold tied heads twice, safetensors once: keep the embedding only, where both share storage."""
    if not config.get("tie_word_embeddings", config.get("model_type") == "whisper"):
        return
    storages = {t.value.data_ptr(): name for name, t in tensors.items() if "embed_tokens" in name}
    for name in [n for n in tensors if n.endswith(("lm_head.weight", "proj_out.weight"))]:
        if tensors[name].value.data_ptr() in storages:
            del tensors[name]


DIMS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_vocab", "n_text_ctx",
        "n_text_state", "n_text_head", "n_text_layer")  # fmt: skip


class Pickled:
    """openai-whisper's `.pt` and SALMONN's `.pth` as a form of model (see chorus.checkpoints.formats)."""

    def takes(self, path: Path) -> bool:
        # by the suffix alone: what is inside shows only when it is unpickled, which needs permission
        return path.suffix in (".pt", ".pth", ".bin")

    def open(self, path: Path, part: str, label: str, options: OpenOptions) -> Model:
        return open_pickled(path, label, options.allow_pickle)
