"""Which class of transformers a config means: by its own word, else by its model type."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.plain import JsonMap, JsonObject

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# what wraps a model while it is trained, and then stands in its config
WRAPPERS = (
    "OptimizedModule", "DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "DeepSpeedEngine",
    "PeftModel", "PeftModelForCausalLM", "PeftModelForSeq2SeqLM", "PeftModelForFeatureExtraction", "PeftMixedModel",
    "AutoModel", "AutoModelForCausalLM", "AutoModelForSpeechSeq2Seq", "AutoModelForCTC", "AutoModelForSeq2SeqLM",
    "AutoModelForCausalLMWithValueHead",
)  # fmt: skip
FSDP = "FSDP"  # before the class's name, where torch's fully_shard has renamed it
# the class of a model type whose family has a rule: no import of transformers for these
USUAL = {
    "whisper": "WhisperForConditionalGeneration",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}
# what a config says besides the structure: models that differ in these alone have one
WITHOUT_STRUCTURE = (
    "dtype", "torch_dtype", "_name_or_path", "transformers_version", "use_cache", "auto_map",
    # an implementation that is not installed here is not asked for
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
)  # fmt: skip
COUNTS = re.compile(r"layer|depth|block|expert|stage|codebook|branch|group|level")
NO_COUNT = re.compile(r"size|dim|norm|dropout|index|interval|position")
MOST = 10_000
# of classes that fit a file equally well the first is taken
PREFERRED = (
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", "MODEL_FOR_CTC_MAPPING", "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING", "MODEL_MAPPING",
)  # fmt: skip


class UnknownClassError(ValueError):
    """No class of transformers is meant by a config."""


def architecture(config: JsonMap) -> str:
    """The class that the config names first; its model type's usual one where it names none, or a wrapper."""
    written = config.get("architectures")
    first = written[0] if isinstance(written, list) and written else ""
    name = str(first).removeprefix(FSDP)
    if name and name not in WRAPPERS:
        return name
    return USUAL.get(str(config.get("model_type", "")), "")


def structure(config: JsonMap) -> JsonObject:
    """The config without what changes neither names nor shapes, at every level."""
    return {
        key: structure(value) if isinstance(value, dict) else value
        for key, value in config.items() if key not in WITHOUT_STRUCTURE
    }  # fmt: skip


def check_counts(config: JsonMap) -> None:
    """`ValueError` where a config counts more layers or experts than any model has: to list them takes for ever."""
    for key, value in config.items():
        counts = COUNTS.search(str(key)) is not None and NO_COUNT.search(str(key)) is None
        if isinstance(value, dict):
            check_counts(value)
        elif counts and isinstance(value, (int, float)) and value > MOST:
            raise ValueError(f"{key} of its config.json is {value}: more than {MOST} are not read")
        elif counts and isinstance(value, list) and len(value) > MOST:
            raise ValueError(f"{key} of its config.json has {len(value)} values: more than {MOST} are not read")


def read_config(config: JsonMap) -> PretrainedConfig:
    """A config as transformers reads it from a directory, legacy values included; no code of the model's own runs."""
    import transformers

    plain = {key: value for key, value in config.items() if key != "auto_map"}
    if not plain.get("model_type"):
        cls = getattr(transformers, architecture(config), None)
        kind = getattr(cls, "config_class", None)
        if kind is None:
            raise UnknownClassError(unknown(config))
        return kind.from_dict(plain)
    with tempfile.TemporaryDirectory() as folder:  # AutoConfig mends older configs only as it reads a file
        (Path(folder) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        return transformers.AutoConfig.from_pretrained(folder)


def named_class(config: JsonMap) -> type[PreTrainedModel] | None:
    """The class that the config names, where transformers has it."""
    import transformers

    found = getattr(transformers, architecture(config), None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def classes_of(settings: PretrainedConfig) -> Iterator[type[PreTrainedModel]]:
    """Every class that takes such a config, those of the usual tasks first."""
    import transformers
    from transformers.models.auto import modeling_auto

    seen: set[str] = set()
    for name in PREFERRED:
        mapping = getattr(modeling_auto, name, {})
        cls = mapping.get(type(settings), None)  # raises without the second argument
        for one in cls if isinstance(cls, tuple) else (cls,):
            if one is not None and one.__name__ not in seen:
                seen.add(one.__name__)
                yield one
    if not seen:
        return
    module = sys.modules[one.__module__]
    for name in getattr(module, "__all__", ()):  # heads that no Auto class offers
        cls = getattr(module, name)
        if name not in seen and issubclass(cls, transformers.PreTrainedModel) and cls.config_class is type(settings):
            yield cls


def unknown(config: JsonMap) -> str:
    """What is said of a config that no class of transformers has."""
    import transformers

    called = architecture(config) or str(config.get("model_type") or "unnamed")
    return (
        f'architecture "{called}" is unknown to transformers {transformers.__version__}; where it is a known one under '
        "another name, write the model as {model: ..., override_architecture: CLASS}"
    )
