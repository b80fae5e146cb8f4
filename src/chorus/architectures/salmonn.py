"""The layout of SALMONN's trained parts, by their names: its class is none of transformers'.

speech_Qformer, speech_query_tokens, speech_llama_proj, ln_speech, ln_audio    between the frozen encoders and the LLM
llama_model.base_model.model.model.layers.N.self_attn.q_proj                   what LoRA adds to the frozen LLM
"""

from __future__ import annotations

import re

from chorus.architectures.roles import Layout, Role, Stack, layer_index, relative_depth
from chorus.plain import JsonMap

MODEL_TYPE, CLASS = "salmonn", "SALMONN"
LLM, ENCODERS = "llama_model.", ("speech_encoder.", "beats.")
STACK = re.compile(r"(llama_model\.(?:[a-z_]+\.)*layers\.)(\d+)\.")
QUERIES = "speech_query_tokens"


def is_salmonn(config: JsonMap) -> bool:
    """Whether these are SALMONN's trained parts."""
    return config.get("model_type") == MODEL_TYPE


def salmonn_layout(config: JsonMap, names: list[str]) -> Layout:
    """One stack, the LLM's; everything else stands before it."""
    found = [match for name in names if (match := STACK.match(name))]
    numbers = {int(match[2]) for match in found}
    stacks: tuple[Stack, ...] = ()
    if found and numbers == set(range(len(numbers))):
        stacks = (Stack("default", found[0][1], len(numbers), None),)
    return Layout(MODEL_TYPE, {name: _role(name, stacks) for name in names}, stacks)


def _role(name: str, stacks: tuple[Stack, ...]) -> Role:
    for stack in stacks:
        if inside := layer_index(name, stack.prefix):
            layer, rest = inside
            kind = "attention" if "attn" in rest else "mlp" if "mlp" in rest else "other"
            return Role("language_model", kind, "default", layer, relative_depth(layer, stack.count), "layer")
    component = "language_model" if name.startswith(LLM) else "encoder" if name.startswith(ENCODERS) else "projector"
    return Role(component, _kind(name))


def _kind(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if name == QUERIES:
        return "embedding"
    if "norm" in module.lower() or module.startswith("ln_"):
        return "norm"
    if leaf == "bias":
        return "bias"
    return "attention" if "attention" in module else "linear"
