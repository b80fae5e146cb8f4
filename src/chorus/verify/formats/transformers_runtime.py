"""A model directory, or llama.cpp's file, in transformers. Lives in a child (see verify/runtime.py)."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from chorus.lazy import lazy
from chorus.models.texts import plain_ids

if TYPE_CHECKING:
    import torch
    import transformers

    from chorus.data.audio import Audio
    from chorus.verify.protocol import Floats
else:
    torch, transformers = lazy("torch"), lazy("transformers")


def _versions() -> dict[str, str]:
    return {"transformers": version("transformers"), "torch": version("torch")}


class SavedWhisper:
    """A Whisper's directory in float32, with the extractor and the tokenizer in it."""

    def __init__(self, path: str) -> None:
        # here and not above: a language model's process needs nothing of what hears
        from chorus.transcribe.decoding import Decoding
        from chorus.transcribe.systems import open_system
        from chorus.verify.original import Original

        self.original = Original(open_system(path), Decoding())

    def versions(self) -> dict[str, str]:
        return _versions()

    def special_ids(self) -> dict[str, int]:
        return {name: i for name, i in self.original.tokens.items() if name.startswith("<|")}

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [self.original.ids(text) for text in texts]

    def log_mel(self, audio: Audio) -> Floats:
        return self.original.log_mel(audio.copy())

    def logits(self, tokens: list[int], mel: Floats) -> Floats:
        return self.original.logits(tokens, mel=mel.copy())


class SavedLanguageModel:
    """A language model in float32; `file` names llama.cpp's in the directory."""

    def __init__(self, path: str, file: str = "") -> None:
        more = {"gguf_file": file} if file else {}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, **more)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **more).eval()

    def versions(self) -> dict[str, str]:
        return _versions()

    def special_ids(self) -> dict[str, int]:
        return {str(token): i for i, token in self.tokenizer.added_tokens_decoder.items()}

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [plain_ids(self.tokenizer, text) for text in texts]

    def logits(self, tokens: list[int]) -> Floats:
        with torch.inference_mode():
            found = self.model(torch.tensor([tokens])).logits[0]
        return np.asarray(found.float().numpy(), np.float32)
