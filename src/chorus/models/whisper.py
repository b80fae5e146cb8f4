"""Whisper of any size: its languages and tasks, its generation settings, and an encoder on less than thirty seconds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

from chorus.architectures.openai_whisper import transformers_name
from chorus.cache import Cache
from chorus.lazy import lazy
from chorus.models.features import FRAMES_PER_SECOND, LogMel
from chorus.models.kind import SPEECH_TO_TEXT, Kind
from chorus.models.languages import LANGUAGES
from chorus.models.limits import Limits, with_generation
from chorus.models.parts import Parts
from chorus.models.texts import Labels
from chorus.models.whisper_tokens import check_tokens
from chorus.plain import JsonMap, JsonObject

if TYPE_CHECKING:
    import torch
    import transformers
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = lazy("torch")

TASK_TOKENS = {"asr": "transcribe", "st": "translate"}  # Whisper's words for tasks
PREFIX_TOKENS = 5  # start, language, task, a timestamp at each end or notimestamps, and the end
MULTILINGUAL = 51_865  # tokens; English-only models have one less, and language tokens that they never use
POSITIONS_PER_SECOND = 50  # of the encoder
# generation settings that old checkpoints have in their config.json
IN_CONFIG = (
    "suppress_tokens", "begin_suppress_tokens", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id", "max_length",
)  # fmt: skip


class GenerateSettings(TypedDict, total=False):
    """What transformers' `generate` is told, as far as it differs between calls."""

    num_beams: int
    do_sample: bool
    max_new_tokens: int
    return_timestamps: bool
    synced_gpus: bool
    return_segments: bool
    force_unique_generate_call: bool
    language: str
    task: str
    prompt_ids: torch.Tensor
    logits_processor: transformers.LogitsProcessorList


def limits(config: JsonMap, tokenizer: PreTrainedTokenizerBase) -> Limits:
    """The decoder's positions, the encoder's window, the languages that the tokenizer has tokens for, what is written.

    `config` has the generation settings too, as old checkpoints keep them (`with_generation`). `CheckpointError` where
    the tokenizer is another model's.
    """
    check_tokens(config, tokenizer)
    multilingual = int(config["vocab_size"]) >= MULTILINGUAL
    return Limits(
        tokenizer,
        max_tokens=int(config["max_target_positions"]) - PREFIX_TOKENS,
        max_audio_s=int(config["max_source_positions"]) / POSITIONS_PER_SECOND,
        languages=languages_of(tokenizer) if multilingual else (),
        only="" if multilingual else "en",
        bare=lambda text: f" {text}",
        labels=Labels(tokenizer, config.get("suppress_tokens") or (), config.get("begin_suppress_tokens") or ()),
    )


def task_token(task: str) -> str:
    """Whisper's word for a task. Others than its two have none: a fine-tune answers them where it transcribes."""
    return TASK_TOKENS.get(task, "transcribe")


def languages_of(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Codes of the languages that the tokenizer has a token for."""
    missing = (None, tokenizer.unk_token_id)
    return {code for code in LANGUAGES if tokenizer.convert_tokens_to_ids(f"<|{code}|>") not in missing}


class LoadedWhisper:
    """A Whisper with its generation settings whole, its tokens by name, and its features.

    `labels` are the tokens of a text that its decoding can write.
    """

    def __init__(self, parts: Parts, cache: Cache | None = None) -> None:
        assert parts.extractor is not None
        self.model, self.tokenizer, self.extractor = parts.model, parts.tokenizer, parts.extractor
        self.features = LogMel(parts.extractor, cache)
        settings = with_generation(self.model.config.to_dict(), self.model.generation_config.to_dict())
        self.limits = limits(settings, self.tokenizer)
        assert self.limits.labels is not None
        self.labels = self.limits.labels
        self.languages = self.limits.languages  # none: English only
        self.positions = int(self.model.config.max_source_positions)
        self.longest_s = self.positions * 2 / FRAMES_PER_SECOND
        complete_generation(self.model, self.tokenizer, self.languages)
        # what training sets; it must not survive in the generation settings (transformers refuses to save it)
        self.model.config.forced_decoder_ids = None

    def token(self, name: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(name))

    def spoken(self, language: str, task: str) -> list[int]:
        """The tokens of a language (its code) and a task; English-only models have none."""
        return [self.token(f"<|{language}|>"), self.token(f"<|{task_token(task)}|>")] if self.languages else []


@contextmanager
def shorter_window(model: PreTrainedModel, positions: int) -> Iterator[None]:
    """Let a transformers Whisper take `positions` (a fiftieth of a second each) while the context lasts.

    The encoder's positions are sinusoids, so that the first rows of their table are the table of the shorter window,
    and five seconds cost a sixth of thirty.
    """
    config = model.config
    whole = int(config.max_source_positions)
    if positions == whole:
        yield
        return
    # from here on both are changed: transformers refuses features of another length than the config's
    encoder = model.get_encoder()
    table = encoder.embed_positions
    shorter = torch.nn.Embedding(positions, table.embedding_dim, _weight=table.weight[:positions].detach())
    encoder.embed_positions = shorter.requires_grad_(False)
    config.max_source_positions = positions
    try:
        yield
    finally:
        encoder.embed_positions = table
        config.max_source_positions = whole


def complete_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, languages: Collection[str]) -> None:
    """Fill in what runtimes read in generation_config.json, from the tokenizer where the model lacks it.

    `languages` are the codes that the tokenizer knows; none means an English-only model.
    """
    settings = model.generation_config
    vars(settings).pop("forced_decoder_ids", None)  # of old checkpoints: it would fix the language of every row
    known = derived_generation(tokenizer.convert_tokens_to_ids, languages)
    known["eos_token_id"] = tokenizer.eos_token_id
    known["pad_token_id"] = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # what the model brings goes first: fine-tunes of old models keep their own suppress lists and start tokens
    for key, value in known.items():
        if getattr(settings, key, None) is None:
            setattr(settings, key, value)


def derived_generation(ids: Callable[[str], object], languages: Collection[str]) -> JsonObject:
    """The generation settings that follow from a tokenizer's ids and the languages that it knows."""
    codes = sorted(languages)
    known: JsonObject = {
        "decoder_start_token_id": ids("<|startoftranscript|>"),
        "no_timestamps_token_id": ids("<|notimestamps|>"),
        "prev_sot_token_id": ids("<|startofprev|>"),
        "is_multilingual": bool(codes),
    }
    if codes:
        known["lang_to_id"] = {f"<|{code}|>": ids(f"<|{code}|>") for code in codes}
        known["task_to_id"] = {task: ids(f"<|{task}|>") for task in TASK_TOKENS.values()}
    return known


def whole_generation(config: JsonMap, settings: JsonMap, ids: Mapping[str, int]) -> JsonObject:
    """Generation settings completed from a config and a vocabulary, as loading the model completes them.

    Fine-tunes of early 2023 have no generation_config.json: what belongs there stands in their config.json, and no
    language or timestamp can be asked of them.
    """
    own = {key: config[key] for key in IN_CONFIG if config.get(key) is not None}
    found: JsonObject = {**(settings or own)}
    end = ids.get("<|endoftext|>")
    if end is None or "<|notimestamps|>" not in ids:  # of another tokenizer nothing follows
        return found
    found.pop("forced_decoder_ids", None)
    multilingual = int(config.get("vocab_size") or 0) >= MULTILINGUAL
    codes = {code for code in LANGUAGES if f"<|{code}|>" in ids} if multilingual else set[str]()
    known = derived_generation(ids.get, codes) | {"eos_token_id": end, "pad_token_id": end}
    return found | {key: value for key, value in known.items() if found.get(key) is None}


KIND = Kind(
    name="whisper",
    covers="Whisper",
    recognises=lambda config: config.get("model_type") == "whisper",
    model_class=lambda config: "WhisperForConditionalGeneration",
    limits=limits,
    pipeline_tag=SPEECH_TO_TEXT,
    tokenizer_class="WhisperTokenizerFast",
    extractor_class="WhisperFeatureExtractor",
    decoder="chorus.transcribe.backends.whisper:WhisperDecoder",
    backbone="chorus.train.backbones.whisper:WhisperBackbone",
    elsewhere={"openai-whisper": transformers_name},
    generation=whole_generation,
)
