"""`--to gguf --adapter`: a LoRA's factors as llama.cpp loads them on the base's file.

    W' = W + s B A          llama.cpp: s = adapter.lora.alpha / r, one alpha for all modules, r by each one's factors

So alpha is s r, which takes in rank-stabilised scales; modules whose s r is another have the difference in B. PiSSA and
OLoRA are written as the plain LoRA, of rank 2 r, that PEFT makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chorus.checkpoints.adapted import AdaptedTensor, ShiftedTensor
from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor, MappedFile
from chorus.checkpoints.model import Model
from chorus.checkpoints.ties import equal_values
from chorus.errors import CheckpointError, some
from chorus.export.ggml.layout import TYPES, NumberType
from chorus.export.gguf import keys as k
from chorus.export.gguf import writer
from chorus.export.gguf.exporter import is_ours, refuse_missing
from chorus.export.gguf.kinds import check_kind, heads_of, kind_of
from chorus.export.gguf.modelfile import for_adapter
from chorus.export.gguf.package import Keys, package
from chorus.export.gguf.tensors import GgufTensor, check_rows, named, pairs, turned_heads
from chorus.export.protocol import ExportOptions, Making, Requirement
from chorus.export.values import Array
from chorus.progress import Progress

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


class GgufAdapter:
    """llama.cpp's file of an adapter, for `--lora` and Ollama's ADAPTER."""

    covers = "LoRA adapters of these language models, for llama.cpp and Ollama"
    types: Mapping[str, str] = {name: TYPES[name].doc.partition(";")[0] for name in ("f32", "f16", "bf16", "q8_0")}
    default = "f32"  # as small as adapters are, nothing is gained by rounding them
    suffix = ".gguf"
    uses = frozenset({"modelfile"})

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        found = check_kind(model)
        if any(check.problem for check in found):
            return found
        try:
            parts = adapted(model)
        except CheckpointError as error:
            return [*found, Requirement("an adapter of factors alone", error.message, error.hint)]
        found.append(Requirement("an adapter of factors alone"))
        made = [entry for part in parts for entry in part.entries(1.0)]
        return [*found, *check_rows(made, types, list(self.types))]

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        made = [entry for part in adapted(model) for entry in part.entries(1.0)]
        return writer.nbytes(made, TYPES[kind])

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        refuse_missing(places)
        # a module of scale 0 adds nothing, and would have no alpha
        kind, parts = kind_of(model), [part for part in adapted(model) if part.scale]
        alpha = common_alpha(parts)
        base = k.called(str(model.adapter_config.get("base_model_name_or_path") or model.label.partition("+")[0]))

        def describe(keys: Keys, number: NumberType) -> None:
            k.describe_file(keys, number, model.label, "adapter")
            keys.add_string(package().Keys.Adapter.TYPE, "lora")
            keys.add_float32(package().Keys.Adapter.LORA_ALPHA, alpha)
            keys.add_base_model_count(1)
            keys.add_base_model_name(0, base)

        made = [entry for part in parts for entry in part.entries(alpha)]
        writer.write(kind.name, made, places, describe, progress)
        # told in the sidecar: these modules' B is no longer what was trained, but a multiple
        other = sum(part.alpha != alpha for part in parts)
        facts = {"architecture": kind.name, "alpha": alpha, "modules": len(parts), "scale_in_b": other}
        return Making(facts, modelfile=for_adapter(base) if options.modelfile else "")

    def ours(self, path: Path) -> bool:
        return is_ours(path)


@dataclass(frozen=True)
class Adapted:
    """A module's factors. `heads`: by how many the rows of B are turned, 0 where they stay."""

    name: str
    source: str
    tensor: AdaptedTensor
    heads: int

    @property
    def scale(self) -> float:
        return self.tensor.factors.scale

    @property
    def rank(self) -> int:
        a = self.tensor.factors.a
        assert a is not None
        return a.shape[0] * (2 if self.tensor.factors.start else 1)

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    def entries(self, alpha: float) -> Iterator[GgufTensor]:
        """lora_a and lora_b, for a file of this alpha. An embedding's stand as llama.cpp looks them up: by token."""
        rows, columns = self.tensor.shape
        a = (rows, self.rank) if self.name == EMBEDDING else (self.rank, columns)
        b = (columns, self.rank) if self.name == EMBEDDING else (rows, self.rank)
        for index, (slot, shape) in enumerate((("lora_a", a), ("lora_b", b))):
            yield GgufTensor(f"{self.name}.{slot}", shape, self.source, partial(self._values, index, alpha))

    def _values(self, index: int, alpha: float) -> Iterator[Array]:
        left, right, _ = self.tensor.factors_as_stored()
        self.tensor.release()  # PiSSA's factors come of the whole weight, which need not stay
        b, a = (right.T, left) if self.name == EMBEDDING else (left, right)
        if index == 0:
            yield a.contiguous().numpy().reshape(-1)
            return
        if self.alpha != alpha:
            b = b * (self.alpha / alpha)
        values: Array = b.contiguous().numpy()
        yield (pairs(values, len(values) // self.heads) if self.heads else values).reshape(-1)


def common_alpha(parts: Sequence[Adapted]) -> float:
    """The alpha of most modules."""
    return Counter(part.alpha for part in parts).most_common(1)[0][0]


def adapted(model: Model) -> list[Adapted]:
    """The modules that an adapter changes; `CheckpointError` where it is none, or more than factors."""
    found = named(model, package())
    parts, whole, biased, dora, stacked = [], [], [], [], []
    heads, key_heads, _ = heads_of(model, {name: tensor.shape for name, (_, tensor) in found.items()})
    for name, (own, tensor) in found.items():
        if isinstance(tensor, AdaptedTensor):
            dora += [own] if tensor.factors.magnitude is not None else []
            stacked += [own] if isinstance(tensor.base, AdaptedTensor) else []
            whole += [own] if model.is_of_adapter(tensor.base) and not _as_in_base(model, own, tensor.base) else []
            parts.append(Adapted(name, own, tensor, turned_heads(name, kind_of(model), heads, key_heads)))
        elif isinstance(tensor, ShiftedTensor):
            biased.append(own)
        elif model.is_of_adapter(tensor):
            whole.append(own)
    for names, told in (
        (whole, "are trained whole (modules_to_save, bias), which no factors are"),
        (biased, "have a bias of the adapter's own (lora_bias)"),
        (dora, "are DoRA's, which scales the base's rows too"),
        (stacked, "have more than one adapter on them"),
    ):
        if names:
            raise CheckpointError(f"{some(names)} {told}", _merged(model))
    if not any(part.scale for part in parts):
        raise CheckpointError("no LoRA adapter is on it", "name the adapter's directory, or BASE+ADAPTER")
    if {EMBEDDING, HEAD} & {part.name for part in parts} and _tied(found):
        raise CheckpointError(
            "its adapter changes an embedding that the base has as its head, which llama.cpp keeps as one",
            _merged(model),
        )
    return parts


def _merged(model: Model) -> str:
    return f"export the merged model: chorus export {model.label} --to gguf, without --adapter"


def _as_in_base(model: Model, own: str, saved: LazyTensor) -> bool:
    """Whether a layer that PEFT saved below its factors, as it does with embeddings, is the base's unchanged."""
    stored = [model.spelling.get(name, name) for name in (own, "model.embed_tokens.weight")]  # a tied head has no other
    for name in stored:
        for file, header in model.files.items():
            if name in header.entries:
                return equal_values(saved, FileTensor(header.entries[name], MappedFile(model.paths[file])))
    return False


def _tied(found: Mapping[str, tuple[str, LazyTensor]]) -> bool:
    """Whether head and embedding are one in the base, below what the adapter adds."""
    if HEAD not in found:
        return True
    # by values: PEFT saves an adapted embedding with the adapter, so that the two need not be one file's
    below = [getattr(tensor, "base", tensor) for _, tensor in (found[EMBEDDING], found[HEAD])]
    return equal_values(below[0], below[1])
