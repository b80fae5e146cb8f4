"""The general rule: roles from the module tree that transformers builds on the meta device, no table of models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chorus.architectures.conversion import Names
from chorus.architectures.on_meta import build_on_meta
from chorus.architectures.roles import Layout, Role, Stack, relative_depth
from chorus.plain import JsonMap

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

PROJECTOR = re.compile(r"projector|merger|adapter|qformer|_proj_for_", re.IGNORECASE)
CROSS = {"encoder_attn", "cross_attention", "crossattention", "EncDecAttention"}
MLP = re.compile(r"MLP|FeedForward|FFN|LayerFF|Experts", re.IGNORECASE)
LINEAR_BY_ANOTHER_NAME = "Conv1D"  # GPT-2's linear maps; torch's own convolutions are Conv1d
MLP_LEAVES = {"fc1", "fc2", "ff1", "ff2"}
COMPONENT_OF_CONFIG = (("audio", "encoder"), ("vision", "vision"), ("text", "language_model"))
# classes of module lists that are no layers; ConvBERT's layers attend
NO_LAYER = re.compile(r"Conv(?!Bert|Next)|WeightNorm|TDNN|Merger")
COUNTS_LAYERS = re.compile(r"layers?$|depth$|blocks$")
GENERAL = {"n", "num", "hidden", "layer", "layers", "blocks", "depth"}  # words of such a key that name no place
STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "global_mean", "global_invstd")


def general_layout(config: JsonMap, names: list[str]) -> Layout:
    """The layout of any model that transformers can build. `ValueError` where it cannot."""
    model = build_on_meta(config, names)
    tree = _Tree(model)
    roles: dict[str, Role] = {}
    for name in names:
        roles[name] = tree.role(tree.module_name(name))  # by the module tree's name; the layout speaks the file's
    stacks = tuple(_file_stack(stack, names, tree) for stack in tree.stacks if stack.module in tree.used_modules)
    tied = {
        _as_in_file(k, names): _as_in_file(v, names)
        for k, v in (getattr(model, "all_tied_weights_keys", None) or {}).items()
    }
    return Layout(str(config.get("model_type", "unknown")), roles, stacks, tied)


class _Tree:
    """Components, layer stacks and modules of a model on the meta device."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        # under every name that a tied tensor has: files store one of them, and not always the same
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
        self.buffers: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
        self.input_embedding = self._path(_call(model, "get_input_embeddings"))
        self.output_embedding = self._path(_call(model, "get_output_embeddings"))
        self.components = self._components()
        self.stacks = self._stacks()
        self.used_modules: set[str] = {s.module for s in self.stacks}
        self.names = Names(model)

    def _path(self, module: nn.Module | None) -> str | None:
        return next((path for path, m in self.modules.items() if module is not None and m is module and path), None)

    def _components(self) -> dict[str, str]:
        """Path of each component's outermost module -> component."""
        found: dict[str, str] = {}
        for key, component in COMPONENT_OF_CONFIG:
            for attribute, sub in _sub_configs(self.model.config):
                if key in attribute:
                    owners = [p for p, m in self.modules.items() if p and getattr(m, "config", None) is sub]
                    for path in _outermost(owners):
                        found.setdefault(path, component)
        # without a modality transformers 5 looks for a text encoder: the audio tower of a speech LLM answers only to
        # its own
        encoder = self._path(_call(self.model, "get_encoder")) or self._path(
            _call(self.model, "get_encoder", modality="audio")
        )
        decoder = self._path(_call(self.model, "get_decoder"))
        if encoder:
            found.setdefault(encoder, "encoder")
        if decoder and (not encoder or not _inside(encoder, decoder)):
            found.setdefault(decoder, "decoder" if encoder and not found.get(decoder) else "language_model")
        return found

    def component_of(self, path: str) -> str | None:
        owners = [c for c in self.components if _inside(path, c)]
        return self.components[max(owners, key=len)] if owners else None  # the innermost: a projector inside a tower

    def _stacks(self) -> list[Stack]:
        """Outermost module lists of like layers; convolution and merger stacks are none."""
        import torch

        lists = {p: m for p, m in self.modules.items() if isinstance(m, torch.nn.ModuleList) and _holds_layers(m)}
        stacks: list[Stack] = []
        for path in _outermost(list(lists)):
            component = self.component_of(path) or "default"
            module = component if component in ("encoder", "decoder", "vision") else "default"
            if any(s.module == module for s in stacks):
                module = path
            count = len(lists[path])
            stacks.append(Stack(module, f"{path}.", count, self._count_key(path, count)))
        if len(stacks) == 1:  # as the rules of families say it, and mergekit's recipes
            stacks = [Stack("default", stacks[0].prefix, stacks[0].count, stacks[0].config_key)]
        return stacks

    def _count_key(self, path: str, count: int) -> str | None:
        """The config's key that counts these layers, with the way to it: `text_config.num_hidden_layers`."""
        side = next((s for s in ("encoder", "decoder") if s in path), None)
        keys = [f"{side}_layers", f"{side}_num_hidden_layers", f"num_{side}_layers"] if side else []
        keys += ["num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "num_blocks"]
        for where, settings in self._configs_over(path):
            counted = {k: v for k, v in settings.to_dict().items() if v == count and isinstance(v, int)}
            # a key that counts something else must not be rewritten when layers are stacked
            others = [k for k in counted if COUNTS_LAYERS.search(k)]
            other_side = {"encoder": "decoder", "decoder": "encoder"}.get(side or "", "\0")
            # Mllama's num_global_layers counts global_transformer.layers, also where there are as many of the others
            named = [
                k for k in others if (words := set(k.split("_")) - GENERAL) and words <= set(re.split(r"[._]", path))
            ]
            named.sort(key=lambda k: -k.count("_"))  # Seamless: speech_encoder_layers before encoder_layers
            for key in (*named, *keys, *(k for k in others if other_side not in k)):
                if key in counted:
                    return f"{where}{key}"
        return None

    def _configs_over(self, path: str) -> Iterator[tuple[str, PretrainedConfig]]:
        """The configs that a module may be built from, the innermost first, each with the way to it."""
        found = []
        for where, sub in _sub_configs(self.model.config):
            owners = [
                p for p, m in self.modules.items() if p and getattr(m, "config", None) is sub and _inside(path, p)
            ]
            if owners:
                found.append((len(max(owners, key=len)), where, sub))
        for _, where, sub in sorted(found, key=lambda one: -one[0]):
            yield f"{where}.", sub
        yield "", self.model.config

    def module_name(self, file_name: str) -> str:
        """The name that the module tree gives to a file's tensor."""
        if file_name in self.buffers:  # also one that is computed, where an old file has it
            return file_name
        found = self.names.key(file_name)
        return found[1] if found else file_name

    def role(self, name: str) -> Role:
        """The role of a tensor by its module-tree name."""
        path, _, leaf = name.rpartition(".")
        stack = next((s for s in self.stacks if name.startswith(s.prefix)), None)
        component = self._component(name, path, stack)
        module = self._module(path, stack)
        kind = self._kind(path, leaf)
        learned = self._learned(name, leaf)
        if stack is not None:
            number = name[len(stack.prefix) :].split(".")[0]
            layer = int(number) if number.isdigit() else 0
            return Role(component, kind, module, layer, relative_depth(layer, stack.count), "layer", learned)
        return Role(component, kind, module, place=self._place(path, module, kind), learned=learned)

    def _component(self, name: str, path: str, stack: Stack | None) -> str:
        if self.input_embedding and _inside(path, self.input_embedding):
            return "embeddings"
        if self.output_embedding and _inside(path, self.output_embedding):
            return "lm_head"
        if stack is not None:  # membership in a stack is decided before the projector's pattern
            parts = set(name[len(stack.prefix) :].split("."))
            if any(part in CROSS or part.startswith("encoder_attn") for part in parts):
                return "cross_attention"
            return self.component_of(path) or self._main(path)
        owner = self.component_of(path)
        if PROJECTOR.search(path) or (owner in ("encoder", "vision") and self._tower_projector(path)):
            return "projector"
        return owner or self._main(path)

    def _main(self, path: str) -> str:
        """The component of what no component covers: the base model itself, or a head outside it."""
        base = self.model.base_model_prefix
        if not _inside(path, base) and path and base in self.modules:
            return "lm_head"
        return "language_model" if self.input_embedding and not self._is_audio_encoder() else "encoder"

    def _is_audio_encoder(self) -> bool:
        return self.model.main_input_name in ("input_values", "input_features")

    def _tower_projector(self, path: str) -> bool:
        """Omni's audio tower ends in its projector: the tower's own last linear, outside its stack."""
        import torch

        owner = max((c for c in self.components if _inside(path, c)), key=len, default="")
        children = (
            [n for n, m in self.modules[owner].named_children() if isinstance(m, torch.nn.Linear)] if owner else []
        )
        return bool(children) and path == f"{owner}.{children[-1]}"

    def _module(self, path: str, stack: Stack | None) -> str:
        if stack is not None:
            return stack.module
        if len(self.stacks) == 1:
            return self.stacks[0].module
        component = self.component_of(path)
        if component in ("encoder", "decoder", "vision") and component in {s.module for s in self.stacks}:
            return component
        modules = [s.module for s in self.stacks]
        return "decoder" if "decoder" in modules else (modules[0] if len(modules) == 1 else "default")

    def _place(self, path: str, module: str, kind: str) -> str:
        """After the stack: what the module tree lists behind it, the final norm and the head."""
        stack = next((s for s in self.stacks if s.module == module), None)
        if stack is None:
            return "before"
        order = list(self.modules)
        stack_path = stack.prefix.rstrip(".")
        # front ends, wherever the class lists them
        if path not in self.modules or kind in ("position", "embedding", "convolution"):
            return "before"
        return "after" if order.index(path) > order.index(stack_path) else "before"

    def _kind(self, path: str, leaf: str) -> str:
        if leaf in STATISTICS:
            return "statistics"
        module = self.modules.get(path)
        class_name = type(module).__name__ if module is not None else ""

        if "Norm" in class_name and not class_name.startswith("Parametri"):
            return "norm"
        # before embedding: learnt positions are an Embedding as well
        if "position" in path.lower() or "embed_positions" in path:
            return "position"
        if "Embedding" in class_name:
            return "embedding"
        if leaf == "bias":
            return "bias"
        if ("Conv" in class_name and class_name != LINEAR_BY_ANOTHER_NAME) or "conv" in path.rsplit(".", 2)[-1]:
            return "convolution"
        if any("Attention" in type(m).__name__ for m in self._ancestors(path)):
            return "attention"
        if any(MLP.search(type(m).__name__) for m in self._ancestors(path)) or path.rsplit(".", 1)[-1] in MLP_LEAVES:
            return "mlp"
        return "linear" if class_name == "Linear" else "other"

    def _ancestors(self, path: str) -> Iterator[nn.Module]:
        while path:
            if path in self.modules:
                yield self.modules[path]
            path = path.rpartition(".")[0]

    def _learned(self, name: str, leaf: str) -> bool:
        if name in self.parameters:
            # wav2vec2's codevectors belong to its pretraining
            return bool(self.parameters[name].requires_grad) and "codevectors" not in name
        return name not in self.buffers and leaf not in STATISTICS


def _call(model: PreTrainedModel, method: str, **arguments: str) -> nn.Module | None:
    """What a getter returns; None where it is missing, refuses, or answers with the model itself."""
    try:
        result = getattr(model, method)(**arguments)
    except (AttributeError, NotImplementedError, TypeError, ValueError):  # how transformers says "it has none"
        return None
    return None if result is model else result


def _sub_configs(config: PretrainedConfig, way: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    """Every config within a config, with the dotted way to it."""
    for attribute in getattr(config, "sub_configs", {}):
        sub = getattr(config, attribute, None)
        if sub is not None:
            yield way + attribute, sub
            yield from _sub_configs(sub, f"{way}{attribute}.")


def _inside(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(f"{ancestor}.")


def _outermost(paths: list[str]) -> list[str]:
    return [p for p in paths if not any(_inside(p, q) for q in paths if q != p)]


def _holds_layers(module_list: nn.ModuleList) -> bool:
    """Whether the modules are layers: each norms, and maps by a matrix, or attends.

    Convolution stacks, mergers, TDNNs and experts are lists of like modules too.
    """
    import torch

    if not len(module_list) or any(NO_LAYER.search(type(m).__name__) for m in module_list):
        return False
    names = [type(m).__name__ for m in module_list[0].modules()]
    if any("Attention" in name for name in names):
        return True
    maps = any(isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D" for m in module_list[0].modules())
    return maps and any("Norm" in name for name in names)


def _as_in_file(name: str, names: list[str]) -> str:
    """A module-tree name as the file writes it, where the file has it under another prefix."""
    if name in names:
        return name
    tail = name.split(".", 1)[-1]
    matches = [n for n in names if n == tail or n.endswith(f".{tail}")]
    return matches[0] if len(matches) == 1 else name  # several would be a guess


def _file_stack(stack: Stack, names: list[str], tree: _Tree) -> Stack:
    """The stack with the prefix that the file uses: what most of its tensors have before their layer's number."""
    found: Counter[str] = Counter()
    for name in names:
        module_name = tree.module_name(name)
        if module_name.startswith(stack.prefix):
            number = module_name[len(stack.prefix) :].partition(".")[0]
            parts = name.split(".")  # of experts' names another part may be that number too, but not in all layers
            found.update("".join(f"{p}." for p in parts[:i]) for i, part in enumerate(parts) if part == number)
    prefix = max(found, key=lambda one: (found[one], -len(one)), default=stack.prefix)
    return Stack(stack.module, prefix, stack.count, stack.config_key)
