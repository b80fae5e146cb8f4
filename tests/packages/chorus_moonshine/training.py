"""How Moonshine is trained."""

from __future__ import annotations

from chorus.models.loading import load_parts
from chorus.train.backbones.protocol import ROWS, Example
from chorus.train.backbones.shared import load_dtype, nothing, origin_of, pad_labels, recognised, row_numbers
from chorus.train.examples import changed
from chorus_moonshine.kind import MoonshineRecogniser


class Moonshine:
    """The backbone (see chorus/train/backbones/protocol.py)."""

    default_roles = ("encoder", "decoder", "cross_attention")
    default_save_modules = ()

    def __init__(self, kind, config, device, texts):
        self.kind, self.parts = kind, load_parts(kind, origin_of(config), load_dtype(config, device))
        self.model, self.tokenizer = self.parts.model, self.parts.tokenizer
        self.recogniser = MoonshineRecogniser(self.parts)
        self.limits = kind.limits(self.model.config.to_dict(), self.tokenizer)
        self.longest_s = self.recogniser.longest_s

    def warnings(self):
        return []

    def misfit(self, utterance):
        return ""

    def example(self, utterance, rng, augment):
        audio = utterance.audio()
        if rng is not None and augment.changes_audio:
            audio = changed(audio, augment, rng)
        text = self.tokenizer.encode(utterance.row.text, add_special_tokens=False)
        return Example([*text, self.tokenizer.eos_token_id], audio=audio)

    def collate(self, examples):
        batch = self.parts.extractor([one.audio for one in examples], sampling_rate=16_000, padding=True,
                                     return_attention_mask=True, return_tensors="pt")  # fmt: skip
        labels = pad_labels([one.labels for one in examples])
        return {**batch, "labels": labels, ROWS: row_numbers(examples)}

    def window(self, model, batch):
        return nothing()

    def transcribe(self, model, utterances, *, max_new_tokens=None, window_s=None, synced_gpus=False):
        return recognised(self.recogniser, model, utterances, max_new_tokens=max_new_tokens, synced_gpus=synced_gpus)

    def save_side_files(self, directory):
        self.parts.save_side_files(directory)
