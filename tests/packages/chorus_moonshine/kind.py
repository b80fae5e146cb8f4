"""Moonshine (Jeffries et al. 2024, arXiv 2410.15608): samples in, texts out; the decoder is given no language."""

from __future__ import annotations

from chorus.models.batches import as_taken
from chorus.models.features import RATE
from chorus.models.kind import SPEECH_TO_TEXT, Kind
from chorus.models.limits import Limits
from chorus.models.recogniser import Transcript
from chorus.models.registry import KINDS

LONGEST_S = 64.0
TOKENS_PER_SECOND = 6.5  # at most: what the authors generate, so that silence does not run on


class MoonshineRecogniser:
    """The recogniser (see chorus/models/recogniser.py)."""

    batches = False  # its encoder looks at the padding
    longest_s = LONGEST_S

    def __init__(self, parts, cache=None):
        self.parts = parts

    def inputs(self, speech):
        sounds = [one.audio() for one in speech]
        batch = self.parts.extractor(sounds, sampling_rate=RATE, padding=True, return_tensors="pt")
        return {"input_values": batch["input_values"]}

    def texts(self, model, inputs, *, beam=1, max_new_tokens=None, synced_gpus=False):
        seconds = inputs["input_values"].shape[-1] / RATE
        limit = min(max_new_tokens or 448, max(1, int(seconds * TOKENS_PER_SECOND)))
        ids = model.generate(
            **as_taken(inputs, model), num_beams=beam, do_sample=False, max_new_tokens=limit, synced_gpus=synced_gpus
        )
        end = self.parts.tokenizer.eos_token_id
        texts = self.parts.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [Transcript(text.strip(), end not in one) for text, one in zip(texts, ids.tolist(), strict=True)]


def limits(config, tokenizer):
    return Limits(tokenizer, max_tokens=config.get("max_position_embeddings"), max_audio_s=LONGEST_S)


KINDS.add(
    "moonshine",
    Kind(
        name="moonshine",
        covers="Moonshine",
        recognises=lambda config: config.get("model_type") == "moonshine",
        model_class=lambda config: "MoonshineForConditionalGeneration",
        limits=limits,
        pipeline_tag=SPEECH_TO_TEXT,
        recogniser=MoonshineRecogniser,
        backbone="chorus_moonshine.training:Moonshine",
    ),
)
