"""CTC encoders (wav2vec2, HuBERT, WavLM, MMS) through transformers: the best token of each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chorus.data.audio import RATE
from chorus.data.limits import LONGEST_CTC_S
from chorus.data.manifest import Row
from chorus.lazy import lazy
from chorus.transcribe.backends.loading import load_config, load_model, load_side, put_weights
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor

torch = lazy("torch")
transformers = lazy("transformers")


class Ctc:
    """The backend (see protocol.py)."""

    long_form = False
    longest_s: float | None = LONGEST_CTC_S

    def __init__(self, system: System, decoding: Decoding, device: str) -> None:
        self.device = device
        names = load_config(system).architectures or [""]  # the automatic class cannot load from tensors
        found = getattr(transformers, names[0]) if names[0].endswith("ForCTC") else transformers.AutoModelForCTC
        self.model = load_model(found, system, decoding, device)
        self.tokenizer = load_side(transformers.AutoTokenizer, system, "tokenizer")
        self.extractor = load_side(transformers.AutoFeatureExtractor, system, "feature extractor")
        self.masks = bool(getattr(self.extractor, "return_attention_mask", False))
        # group norm runs over time, padding and all: such a model hears one sound at a time, whatever the batch size
        self.batches = self.masks and getattr(self.model.config, "feat_extract_norm", "layer") == "layer"
        self.facts: dict[str, str] = {}  # versions of transformers and torch are told of every result

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """As the protocol says."""
        put_weights(self.model, tensors)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        """Any row can be decoded."""

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        parts = [list(sounds)] if self.batches else [[s] for s in sounds]
        return [one for part in parts for one in self._together(part)]

    def _together(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        name = self.extractor.model_input_names[0]
        values = [self.extractor(s.audio, sampling_rate=RATE, return_tensors="np")[name][0] for s in sounds]
        batch = self.extractor.pad({name: values}, padding=True, return_attention_mask=True, return_tensors="pt")
        inputs = {name: batch[name].to(self.device, self.model.dtype)}
        if self.masks:
            inputs["attention_mask"] = batch["attention_mask"].to(self.device)
        with torch.inference_mode():
            ids = self.model(**inputs).logits.argmax(-1).cpu()
        if self.masks:  # frames of the padding say nothing
            lengths = self.model._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1))
            ids = [row[:n] for row, n in zip(ids, lengths.tolist(), strict=True)]
        return [Hypothesis(text.strip()) for text in self.tokenizer.batch_decode(ids)]

    def close(self) -> None:
        del self.model
