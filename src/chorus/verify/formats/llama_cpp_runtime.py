"""One GGUF file in llama.cpp, through llama-cpp-python. Lives in a child (see verify/runtime.py)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from chorus.verify.protocol import Floats

CONTEXT = 512  # tokens: the longest of the texts that are read has 60


class LoadedGguf:
    """The model on the processor, with the logits of every position kept."""

    def __init__(self, path: str) -> None:
        # by name: no wheel of it is installed where types are checked
        llama_cpp = import_module("llama_cpp")
        self.version = str(llama_cpp.__version__)
        self.model = llama_cpp.Llama(path, n_ctx=CONTEXT, n_gpu_layers=0, logits_all=True, verbose=False)

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": self.version}

    def special_ids(self) -> dict[str, int]:
        """Those that it knows by their role, under the names that the file gives them."""
        ids = [i for i in (self.model.token_bos(), self.model.token_eos()) if i >= 0]
        return {self.model.detokenize([i], special=True).decode(errors="replace"): i for i in ids}

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [self.model.tokenize(text.encode(), add_bos=False, special=False) for text in texts]

    def logits(self, tokens: list[int]) -> Floats:
        # else it goes on after the text before
        self.model.reset()
        self.model.eval(tokens)
        return np.array(self.model.scores[: len(tokens)], np.float32)
