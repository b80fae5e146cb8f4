"""The language models that are taken, and what must hold so that llama.cpp computes what transformers computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from chorus.checkpoints.model import Model
from chorus.errors import some
from chorus.export.protocol import Requirement
from chorus.plain import JsonMap, JsonObject

CONVERTER = "llama.cpp's own convert_hf_to_gguf.py"
TOWERS = ("audio_config", "vision_config", "thinker_config", "talker_config", "audio_encoder_config")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class LanguageKind:
    """An architecture of llama.cpp's.

    permuted: its queries' and keys' rows are turned from transformers' order (halves) into that of pairs.
    pre: the name of what cuts texts before its tokens, where no file says it.
    biases: of which tensors; llama.cpp reads no others.
    context: what transformers takes where the config does not say.
    """

    name: str
    permuted: bool
    pre: str
    biases: frozenset[str]
    context: int


ATTENTION = frozenset({"attn_q", "attn_k", "attn_v"})
KINDS = {
    "Qwen2ForCausalLM": LanguageKind("qwen2", False, "qwen2", ATTENTION, 32768),
    "Qwen3ForCausalLM": LanguageKind("qwen3", False, "qwen2", frozenset(), 32768),
    "LlamaForCausalLM": LanguageKind(
        "llama", True, "llama-bpe", ATTENTION | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}, 2048
    ),
}


def kind_of(model: Model) -> LanguageKind:
    """Of a model that is one of them (see `check_kind`)."""
    return KINDS[model.architecture]


def check_kind(model: Model) -> list[Requirement]:
    """Whether it is one of them; of another nothing else can be asked, and this is all that is returned."""
    first = Requirement("a Qwen2, Qwen3 or Llama", *_other(model))
    if first.problem:
        return [first]
    sizes = _check_sizes(model.config)
    # everything else goes by these
    return [first, sizes] if sizes.problem else [first, sizes, *_check_sums(model.config), _check_rope(model)]


def _other(model: Model) -> tuple[str, str]:
    """(problem, remedy) where it is none of the kinds."""
    config, kind = model.config, str(model.config.get("model_type") or "unknown")
    # by what the config holds before its class: these have a language model of a known class inside
    if kind == "whisper":
        return "a Whisper, which llama.cpp does not run", "--to ggml writes what whisper.cpp loads"
    if any(key in config for key in TOWERS):
        return (
            f"a model of the type {kind}, with a tower for sound or images, which GGUF has in a second file",
            f"{CONVERTER} makes both, the tower's with --mmproj",
        )
    if any(config.get(key) for key in EXPERTS) or "moe" in kind:
        return f"a model of the type {kind}, a mixture of experts", CONVERTER
    if model.architecture not in KINDS:
        known = ", ".join(name.removesuffix("ForCausalLM") for name in KINDS)
        return f"{model.architecture or kind}; {known} with a head for language are taken", f"{CONVERTER} knows others"
    return "", ""


def _check_sizes(config: JsonMap) -> Requirement:
    """The numbers that no tensor says."""
    given = {key: config.get(key) for key in ("vocab_size", "num_hidden_layers", "num_attention_heads")}
    # transformers' own default for all of these
    given["rms_norm_eps"] = config.get("rms_norm_eps", 1e-6)
    wrong = [key for key, value in given.items() if not _positive(value)]
    told = f"its config.json has no usable {some(wrong)}" if wrong else ""
    return Requirement("sizes", told, CONFIG if wrong else "")


def _check_sums(config: JsonMap) -> Iterator[Requirement]:
    """What llama.cpp computes in one way only."""
    # older configs say it by a flag, newer ones layer by layer; where both are, the layers are what is computed
    kinds = config.get("layer_types")
    kinds = {str(kind) for kind in kinds} if isinstance(kinds, list) else set()
    slides = bool(config.get("use_sliding_window")) and config.get("sliding_window") is not None
    other = kinds - {"full_attention"}
    problem = f"its layers have {some(sorted(other)) or 'a sliding window'}" if other or (slides and not kinds) else ""
    remedy = f"llama.cpp lets these models attend to everything; {CONVERTER} would ignore the window too"
    yield Requirement("attention to everything", problem, remedy if problem else "")

    act = config.get("hidden_act", "silu")
    problem = "" if act == "silu" else f"its activation is {act}, where llama.cpp has silu"
    yield Requirement("activation", problem, "there is no such model in llama.cpp" if problem else "")


SCALINGS = ("default", "linear", "yarn", "llama3")


def rope_of(config: JsonMap) -> JsonObject:
    """Rotary positions in transformers 5's words (`rope_type`, `rope_theta`, ...), whichever wrote the config."""
    found: JsonObject = {}
    # the newer wins: transformers 5 reads both, and writes this one
    for key in ("rope_scaling", "rope_parameters"):
        given = config.get(key)
        given = given.get("full_attention", given) if isinstance(given, dict) else {}
        found |= given if isinstance(given, dict) else {}
    found.setdefault("rope_type", found.get("type") or "default")
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    for key in ("partial_rotary_factor", "original_max_position_embeddings"):
        if config.get(key) is not None:
            found.setdefault(key, config[key])
    return found


def _check_rope(model: Model) -> Requirement:
    rope, what = rope_of(model.config), "rotary positions"
    kind = str(rope["rope_type"])
    needed = {"linear": ["factor"], "yarn": ["factor"], "llama3": list(LLAMA3)}.get(kind, [])
    wrong = [key for key in needed if not _positive(rope.get(key))]
    if kind not in SCALINGS:
        told = f"positions are scaled by {kind}; llama.cpp has {', '.join(SCALINGS[1:])} for these models"
        return Requirement(what, told, OTHER_ROPE)
    if wrong or not _positive(rope["rope_theta"]):
        told = f"its config has no usable {some(wrong or ['rope_theta'])} for {kind} positions"
        return Requirement(what, told, CONFIG)
    if kind == "llama3" and not kind_of(model).permuted:
        # its factors are a tensor, which llama.cpp looks for in a Llama: a file with one too many it does not load
        told = f"its positions are scaled as Llama 3.1's, which llama.cpp has for no {kind_of(model).name}"
        return Requirement(what, told, OTHER_ROPE)
    if kind == "yarn" and any(float(rope.get(key) or usual) != usual for key, usual in BETAS.items()):
        told = f"its YaRN has a ramp of its own ({', '.join(BETAS)}), which llama.cpp reads for other models only"
        return Requirement(what, told, OTHER_ROPE)
    if rope.get("partial_rotary_factor", 1) != 1 or (kind == "yarn" and rope.get("truncate") is False):
        told = "its positions turn a part of each head, or their ramp is not rounded (truncate: false)"
        return Requirement(what, told, "llama.cpp has no such setting for these models")
    return Requirement(what)


CONFIG = "take the config.json of the model that it was made of"
OTHER_ROPE = "set another rope_type in its config.json, if it was not trained with this one"
BETAS = {"beta_fast": 32, "beta_slow": 1}  # YaRN's own, which llama.cpp has without asking
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def heads_of(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """(heads, key heads, width of each) by the first layer's tensors under GGUF's names; configs leave some out."""
    heads = int(model.config["num_attention_heads"])
    width = shapes["blk.0.attn_q.weight"][0] // heads
    return heads, shapes["blk.0.attn_k.weight"][0] // width, width
