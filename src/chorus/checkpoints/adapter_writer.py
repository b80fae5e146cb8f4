"""A PEFT LoRA (or DoRA) adapter directory, written module by module as its factors come.

The factors of a module are written to a file of their own as soon as they are known, and put together at the end:
nothing is held in memory, and the order in which they come changes no byte.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from chorus.checkpoints.adapter import CONFIG, WEIGHTS
from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.safetensors_header import build_header
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import OutputFile, explained
from chorus.identity import fingerprint
from chorus.lazy import lazy
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Layout = Literal["linear", "convolution", "embedding", "transposed"]
PREFIX = "base_model.model."
SPOOL = ".factors"
BIAS = "bias of a matrix"  # stands in a name until its module is known


@dataclass(frozen=True)
class _Piece:
    module: str
    rest: str
    shape: tuple[int, ...]
    file: Path


class AdapterWriter:
    """Collects factors under `directory` and writes the adapter there. Its methods may be called from any thread."""

    def __init__(self, directory: Path, dtype: str = "float32") -> None:
        self.directory, self.dtype = directory, dtype
        self.ranks: dict[str, int] = {}
        self.layouts: dict[str, Layout] = {}
        self.saved: list[str] = []  # modules_to_save
        self.transposed = self.dora = self.biases = False
        self._pieces: dict[str, _Piece] = {}
        self._lock = Lock()
        with explained(directory):
            (directory / SPOOL).mkdir(parents=True, exist_ok=True)

    def add(
        self,
        module: str,
        left: torch.Tensor,
        right: torch.Tensor,
        *,
        layout: Layout = "linear",
        kernel: tuple[int, ...] = (),
        magnitude: torch.Tensor | None = None,
    ) -> None:
        """Factors of one module: its weight's difference is left [m, k] @ right [k, n], as the weight is stored.

        `kernel` is the shape of a convolution's kernel; n is then input channels times its size.
        """
        a, b = right, left
        if layout in ("embedding", "transposed"):  # stored [inputs, outputs]
            a, b = left.T, right.T
        rank = a.shape[0]
        if layout == "embedding":
            self._keep(module, "lora_embedding_A", a)
            self._keep(module, "lora_embedding_B", b)
        else:
            if layout == "convolution":
                # PEFT's A is a convolution with the layer's kernel, its B one of 1 x 1
                a, b = a.reshape(rank, -1, *kernel), b.reshape(*b.shape, *(1 for _ in kernel))
            self._keep(module, "lora_A.weight", a)
            self._keep(module, "lora_B.weight", b)
        if magnitude is not None:
            self._keep(module, "lora_magnitude_vector", magnitude)
        with self._lock:
            self.ranks[module], self.layouts[module] = int(rank), layout
            self.dora |= magnitude is not None
            self.transposed |= layout == "transposed"

    def add_whole(self, name: str, value: torch.Tensor, *, matrix: bool) -> bool:
        """A tensor that replaces the base's; whether PEFT can carry it.

        Of a module with a matrix (`matrix`) a bias goes under PEFT's `bias`, the matrix itself and everything of
        other modules, such as norms, into `modules_to_save`; what is neither a weight nor a bias finds no place.
        """
        module, _, last = name.rpartition(".")
        if last not in ("weight", "bias"):
            return False
        if matrix and last == "bias":
            self._keep(module, BIAS, value)
            self.biases = True
            return True
        self._keep(module, last, value)
        with self._lock:
            self.saved.append(module)  # the module, not the tensor: PEFT wraps whole modules
        return True

    def without_magnitude(self) -> list[tuple[str, Layout]]:
        """Where some modules have a magnitude: the others, each with its layout."""
        if not self.dora:
            return []
        lacking = [m for m in sorted(self.ranks) if f"{m}.lora_magnitude_vector" not in self._pieces]
        return [(m, self.layouts[m]) for m in lacking]

    def factors(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors (left, right) that were written for a linear module, in float32."""
        return self._read(f"{module}.lora_B.weight"), self._read(f"{module}.lora_A.weight")

    def _read(self, name: str) -> torch.Tensor:
        piece = self._pieces[name]
        dtype = torch_dtype(self.dtype)
        # a copy that may be written: torch warns of tensors over read-only bytes
        raw = torch.frombuffer(bytearray(piece.file.read_bytes()), dtype=dtype)
        return raw.reshape(piece.shape).float()

    def _keep(self, module: str, rest: str, value: torch.Tensor) -> None:
        name = f"{module}.{rest}"
        # a hash: a tensor's name comes from somebody's file and may hold what a file's name must not, a slash
        file = self.directory / SPOOL / fingerprint(tensor=name)
        dtype = torch_dtype(self.dtype)
        cast = value.detach().to(dtype).cpu().contiguous()
        with explained(file):
            # as bytes, because numpy has no bfloat16; flat, because a view as bytes stretches the last dimension
            cast.reshape(-1).view(torch.uint8).numpy().tofile(file)
        with self._lock:
            self._pieces[name] = _Piece(module, rest, tuple(cast.shape), file)

    @property
    def parameters(self) -> int:
        """Parameters of the factors written so far."""
        return sum(p.file.stat().st_size for p in self._pieces.values()) // itemsize(self.dtype)

    def finish(
        self, *, base: str, task_type: str | None, every_module: Sequence[str], names: Mapping[str, str] | None = None
    ) -> JsonObject:
        """Put the adapter together; returns its config.

        `every_module` names all of the base's modules that an ending could mean: where the adapter has all of those
        that end alike, the config names the ending. `names` says what PEFT finds the modules under that the base's
        file calls otherwise.
        """
        names = names or {}
        # by name, not as the threads came: the same adapter is the same bytes
        pieces = dict(sorted((self._name(piece, names), piece) for piece in self._pieces.values()))
        header, starts = build_header([(name, self.dtype, piece.shape) for name, piece in pieces.items()])
        sizes = [piece.file.stat().st_size for piece in pieces.values()]
        file = OutputFile(self.directory / WEIGHTS, header, len(header) + sum(sizes))
        for name, piece in pieces.items():
            file.write(piece.file.read_bytes(), starts[name])
        file.close()
        shutil.rmtree(self.directory / SPOOL)
        config = self._config(base, task_type, every_module, names)
        write_json(self.directory / CONFIG, config)
        return config

    def _name(self, piece: _Piece, names: Mapping[str, str]) -> str:
        """Only now it is known which modules have factors, where PEFT looks for the bias below `base_layer`."""
        bias = "base_layer.bias" if piece.module in self.ranks else "bias"
        rest = bias if piece.rest == BIAS else piece.rest
        return f"{PREFIX}{names.get(piece.module, piece.module)}.{rest}"

    def _config(
        self, base: str, task_type: str | None, every_module: Sequence[str], names: Mapping[str, str]
    ) -> JsonObject:
        ranks = {names.get(module, module): rank for module, rank in self.ranks.items()}
        # the commonest rank is `r`: the patterns name only the exceptions
        usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
        others = {m: r for m, r in sorted(ranks.items()) if r != usual}
        return {
            "peft_type": "LORA",
            "task_type": task_type,
            "base_model_name_or_path": base,
            "r": usual,
            "lora_alpha": usual,  # alpha = r, a scale of 1: the factors hold all of it
            "rank_pattern": others,
            "alpha_pattern": others,  # so that their scale is 1 too
            "target_modules": target_modules(list(ranks), every_module),
            "modules_to_save": sorted({names.get(module, module) for module in self.saved}) or None,
            "use_dora": self.dora,
            "use_rslora": False,
            "fan_in_fan_out": self.transposed,
            "bias": "all" if self.biases else "none",
            "lora_dropout": 0.0,
            # plain: with PiSSA's name here PEFT would take the starting factors off the base once more
            "init_lora_weights": True,
            "inference_mode": True,
        }


def target_modules(chosen: Sequence[str], every: Sequence[str]) -> list[str]:
    """The shortest names by which PEFT finds exactly the chosen modules: last parts where those suffice.

    >>> target_modules(["a.0.q", "a.1.q", "a.0.v"], ["a.0.q", "a.1.q", "a.0.v", "a.1.v"])
    ['a.0.v', 'q']
    """
    endings: dict[str, set[str]] = {}
    for module in {*every, *chosen}:
        endings.setdefault(module.rpartition(".")[2], set()).add(module)
    wanted = set(chosen)
    found: set[str] = set()
    for ending, modules in endings.items():
        # PEFT matches a name or the end of one: an ending that other modules share would adapt those too
        found |= {ending} if modules <= wanted else modules & wanted
    return sorted(found)
