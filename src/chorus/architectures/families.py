"""Families with a rule of their own, so that planning them needs neither torch nor transformers.

Each rule reads the structure of the names; the general rule must agree with it on every tensor (a test).
"""

from __future__ import annotations

from collections.abc import Callable

from chorus.architectures.classes import architecture
from chorus.architectures.roles import Layout, Role, Stack, layer_index, relative_depth
from chorus.architectures.salmonn import is_salmonn, salmonn_layout
from chorus.plain import JsonMap

CAUSAL_LMS = {
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
}
WHISPER = {"WhisperForConditionalGeneration", "WhisperModel"}


def is_whisper(config: JsonMap) -> bool:
    """Whether Whisper's rule holds."""
    return architecture(config) in WHISPER


def is_causal_lm(config: JsonMap) -> bool:
    """Whether the rule of language models of one stack holds."""
    return architecture(config) in CAUSAL_LMS


def whisper_prefix(config: JsonMap) -> str:
    """What stands before every name but the head's."""
    return "" if architecture(config) == "WhisperModel" else "model."


def whisper_layout(config: JsonMap, names: list[str]) -> Layout:
    """Whisper of any size: two stacks, cross-attention inside the decoder's, `proj_out` tied to the embedding."""
    # a file of the base model alone has its prefix or not, whatever class the config names
    prefix = "model." if any(name.startswith("model.") for name in names) else ""
    stacks = (
        Stack("encoder", f"{prefix}encoder.layers.", int(config["encoder_layers"]), "encoder_layers"),
        Stack("decoder", f"{prefix}decoder.layers.", int(config["decoder_layers"]), "decoder_layers"),
    )
    roles = {name: _whisper_role(name, prefix, stacks) for name in names}
    tied = {}
    # transformers' default for Whisper, which a saved config leaves out
    if config.get("tie_word_embeddings", True) and whisper_prefix(config):
        tied = {"proj_out.weight": f"{prefix}decoder.embed_tokens.weight"}
    return Layout("whisper", roles, stacks, tied)


def _whisper_role(name: str, prefix: str, stacks: tuple[Stack, ...]) -> Role:
    for stack in stacks:
        found = layer_index(name, stack.prefix)
        if found:
            layer, rest = found
            component = "cross_attention" if rest.startswith("encoder_attn") else stack.module
            return Role(component, _kind(rest), stack.module, layer, relative_depth(layer, stack.count), "layer")
    rest = name.removeprefix(prefix)
    if rest.startswith("proj_out"):
        return Role("lm_head", "linear", "decoder", place="after")
    module = "encoder" if rest.startswith("encoder.") else "decoder"
    if rest.endswith("embed_tokens.weight"):
        return Role("embeddings", "embedding", module)
    if rest.endswith("embed_positions.weight"):
        # Whisper's paper, section 2.2: sinusoids in the encoder, learnt positions in the decoder
        return Role(module, "position", module, learned=module == "decoder")
    if ".conv" in rest:
        return Role(module, "bias" if rest.endswith(".bias") else "convolution", module)
    if ".layer_norm." in rest:
        return Role(module, "norm", module, place="after")
    return Role("other", "other", module)


def causal_lm_layout(config: JsonMap, names: list[str]) -> Layout:
    """Qwen2, Qwen3, Llama, Mistral: one stack, a final norm, a head that may be tied to the embedding."""
    prefix = "model." if any(name.startswith("model.") for name in names) else ""
    stack = Stack("default", f"{prefix}layers.", int(config["num_hidden_layers"]), "num_hidden_layers")
    roles = {name: _causal_lm_role(name, prefix, stack) for name in names}
    # where the config is silent its class's default holds: transformers ties none of these
    tied = {"lm_head.weight": f"{prefix}embed_tokens.weight"} if config.get("tie_word_embeddings", False) else {}
    return Layout("causal_lm", roles, (stack,), tied)


def _causal_lm_role(name: str, prefix: str, stack: Stack) -> Role:
    found = layer_index(name, stack.prefix)
    if found:
        layer, rest = found
        return Role("language_model", _kind(rest), "default", layer, relative_depth(layer, stack.count), "layer")
    if name == f"{prefix}embed_tokens.weight":
        return Role("embeddings", "embedding")
    if name == f"{prefix}norm.weight":
        return Role("language_model", "norm", place="after")
    if name.startswith("lm_head."):
        return Role("lm_head", "bias" if name.endswith(".bias") else "linear", place="after")
    return Role("other", "other")


def _kind(rest: str) -> str:
    """The kind of a tensor inside a transformer layer, from its name there."""
    module, _, leaf = rest.rpartition(".")
    if "norm" in module:  # before bias: a norm's bias belongs to the norm
        return "norm"
    if leaf == "bias":
        return "bias"
    if module.startswith(("self_attn.", "encoder_attn.")):
        return "attention"
    if module.startswith(("fc1", "fc2", "mlp.")):
        return "mlp"
    return "other"


Rule = Callable[[JsonMap, list[str]], Layout]
# the first that matches; what none matches goes to the general rule
FAMILIES: list[tuple[Callable[[JsonMap], bool], Rule]] = [
    (is_whisper, whisper_layout),
    (is_causal_lm, causal_lm_layout),
    (is_salmonn, salmonn_layout),
]
