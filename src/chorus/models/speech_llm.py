"""Speech LLMs on audio: a question about a recording, and its answer. Qwen2-Audio and Qwen2.5-Omni's thinker.

The inputs are put together here: a text in the family's own dialect with a token for each frame that its tower makes,
log-mel features of up to thirty seconds, and their mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.cache import Cache
from chorus.errors import CheckpointError
from chorus.lazy import lazy
from chorus.models.batches import as_taken, pad
from chorus.models.dialects import DIALECTS
from chorus.models.features import FRAMES_PER_SECOND, LogMel
from chorus.models.finite import finite_alone
from chorus.models.kind import AUDIO_TEXT_TO_TEXT, Kind
from chorus.models.label_scores import Odds, Scores, odds_behind, scores_of, tree_of
from chorus.models.limits import Limits
from chorus.models.parts import Parts
from chorus.models.recogniser import Speech, Transcript
from chorus.models.texts import plain_ids
from chorus.plain import JsonMap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from chorus.models.batches import Batch
    from chorus.models.features import Features
else:
    torch = lazy("torch")

CLASSES = {  # model_type -> class
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
}
LONGEST_S = 30.0
# of an answer: thirty seconds of Telugu, of which every letter takes three, and no endless answer to noise
NEW_TOKENS = 1024


def limits(config: JsonMap, tokenizer: PreTrainedTokenizerBase) -> Limits:
    """The language model's positions, and the tower's window."""
    inner = config.get("thinker_config") or config
    positions = inner["text_config"].get("max_position_embeddings")
    return Limits(tokenizer, max_tokens=positions, max_audio_s=LONGEST_S, asked=True)


class SpeechLlmRecogniser:
    """The recogniser (see recogniser.py)."""

    batches = True

    def __init__(self, parts: Parts, cache: Cache | None = None) -> None:
        assert parts.extractor is not None
        self.parts, self.tokenizer, config = parts, parts.tokenizer, parts.model.config
        self.features = LogMel(parts.extractor, cache)
        self.dialect = DIALECTS[str(config.model_type)](config, self.features)
        self.transcribes = self.dialect.transcribes
        self._check_audio_token()  # a wrong one is silent: the model answers as if it were given no audio
        self.columns = self.dialect.window(self.features.columns)
        self.longest_s: float | None = self.columns / FRAMES_PER_SECOND
        self.end = int(self.tokenizer.convert_tokens_to_ids(self.dialect.end))
        padding = self.tokenizer.pad_token_id
        self.padding = int(padding) if padding is not None else self.end

    def _check_audio_token(self) -> None:
        config, audio = self.parts.model.config, self.dialect.audio
        # None of a tokenizer without it and without a token for what is unknown
        found = self.tokenizer.convert_tokens_to_ids(audio)
        expected = getattr(config, "audio_token_id", getattr(config, "audio_token_index", None))
        if found != expected:
            raise CheckpointError(
                f"{self.parts.label}: the tokenizer's {audio} is {found}, the config's {expected}",
                "take tokenizer and config from the same model",
            )

    def speech_columns(self, features: Features) -> int:
        """The columns that hold the speech."""
        return self.dialect.columns(int(features.shape[1]), self.columns)

    def question(self, text: str, columns: int, language: str = "") -> list[int]:
        """Everything before the answer; `language` is what a transcript is to be in."""
        before, after = (
            self.tokenizer.encode(part, add_special_tokens=False)
            for part in self.dialect.around(columns, text, language)
        )
        return [*before, *plain_ids(self.tokenizer, text), *after]  # a question opens no turn of its own

    def answer(self, text: str, language: str | None) -> list[int]:
        """An answer that is learnt, with its end; of a transcript with its language, as far as it is known."""
        lead = self.dialect.lead(language) if language is not None else ""
        return [*self.tokenizer.encode(lead, add_special_tokens=False), *plain_ids(self.tokenizer, text), self.end]

    def sounds(self, features: Sequence[Features], columns: Sequence[int]) -> Batch:
        """The audio's part of the inputs: features, and which of their columns hold speech."""
        width = self.dialect.width(max(columns), self.columns)
        found = {"input_features": self.features.window(features, width)}
        if not self.dialect.mask:
            return found
        return {**found, self.dialect.mask: (torch.arange(width)[None] < torch.tensor(columns)[:, None]).long()}

    def inputs(self, speech: Sequence[Speech]) -> Batch:
        features = [self.features.cached(one.key(), one.audio) for one in speech]
        columns = [self.speech_columns(one) for one in features]
        ids = [self.question(one.prompt, n, one.language) for one, n in zip(speech, columns, strict=True)]
        return {
            "input_ids": pad(ids, self.padding, left=True),  # answers begin where questions end, in one column
            "attention_mask": pad([[1] * len(one) for one in ids], 0, left=True),
            **self.sounds(features, columns),
        }

    def texts(
        self, model: PreTrainedModel, inputs: Batch, *, beam: int = 1, max_new_tokens: int | None = None,
        synced_gpus: bool = False,
    ) -> list[Transcript]:  # fmt: skip
        """The answers."""
        ids = model.generate(
            **as_taken(inputs, model), do_sample=False, num_beams=beam, eos_token_id=self.end,
            pad_token_id=self.padding, max_new_tokens=max_new_tokens or NEW_TOKENS, synced_gpus=synced_gpus,
            logits_processor=finite_alone(),
        )  # fmt: skip
        answers = ids[:, inputs["input_ids"].shape[1] :]
        cut = (answers != self.end).all(1).tolist()  # what has ended is filled up behind its end
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        read = [self.dialect.read(str(text).strip()).strip() for text in texts]
        return [Transcript(text, one) for text, one in zip(read, cut, strict=True)]

    def label_scores(self, model: PreTrainedModel, inputs: Batch, labels: Sequence[Sequence[str]]) -> list[Scores]:
        """As the protocol says: the sound is heard once for all labels."""
        return [scores_of(one) for one in self.label_odds(model, inputs, labels)]

    def label_odds(self, model: PreTrainedModel, inputs: Batch, labels: Sequence[Sequence[str]]) -> list[Odds]:
        """The same, token by token, with gradients where the caller keeps them."""
        trees = [tree_of({label: plain_ids(self.tokenizer, label) for label in own}, self.end) for own in labels]
        return odds_behind(model, as_taken(inputs, model), trees, self.padding)


KIND = Kind(
    name="speech_llm",
    covers="Qwen2-Audio, Qwen2.5-Omni",
    recognises=lambda config: config.get("model_type") in CLASSES,
    model_class=lambda config: CLASSES[str(config["model_type"])],
    limits=limits,
    pipeline_tag=AUDIO_TEXT_TO_TEXT,
    extractor_class="WhisperFeatureExtractor",
    recogniser=SpeechLlmRecogniser,
    backbone="chorus.train.backbones.speech_llm:SpeechLlmBackbone",
)
