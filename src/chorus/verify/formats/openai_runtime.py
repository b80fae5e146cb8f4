"""One `.pt` in openai-whisper. Lives in a child (see verify/runtime.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch

    from chorus.data.audio import Audio
    from chorus.verify.protocol import Floats
else:
    torch = lazy("torch")


class LoadedOpenai:
    """The model in float32, as openai-whisper loads every file on a processor, and the tokenizer that it brings."""

    def __init__(self, path: str) -> None:
        import whisper

        self.whisper = whisper
        # a path and never a name, which it would download
        self.model = whisper.load_model(path, device="cpu")
        self.tokenizer = whisper.tokenizer.get_tokenizer(
            self.model.is_multilingual, num_languages=self.model.num_languages
        )

    def versions(self) -> dict[str, str]:
        return {"openai-whisper": str(self.whisper.__version__)}

    def special_ids(self) -> dict[str, int]:
        return dict(self.tokenizer.special_tokens)

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(text) for text in texts]

    def log_mel(self, audio: Audio) -> Floats:
        """[bins, frames] of the audio and half a minute of zeros after it, as it transcribes."""
        # a copy: what came through a pipe may not be written to, which torch warns of
        found = self.whisper.log_mel_spectrogram(audio.copy(), self.model.dims.n_mels, padding=480_000)
        return np.asarray(found.numpy(), np.float32)

    def logits(self, tokens: list[int], mel: Floats) -> Floats:
        """[tokens, vocabulary]: after each token, given those before it and a spectrum [bins, frames]."""
        with torch.inference_mode():
            found = self.model(torch.from_numpy(mel.copy())[None], torch.tensor([tokens]))
        return np.asarray(found[0].float().numpy(), np.float32)
