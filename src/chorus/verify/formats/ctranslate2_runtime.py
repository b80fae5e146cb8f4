"""One CTranslate2 model: after each token of a row what it holds likely. Lives in a child (see verify/runtime.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chorus.errors import CheckpointError
from chorus.lazy import lazy

if TYPE_CHECKING:
    import ctranslate2

    from chorus.verify.protocol import Floats
else:
    ctranslate2 = lazy("ctranslate2")


class LoadedCTranslate2:
    """A directory, loaded in the type `computed`."""

    def __init__(self, path: str, computed: str) -> None:
        self.model = ctranslate2.models.Whisper(path, device="cpu", compute_type=computed)

    def versions(self) -> dict[str, str]:
        return {"ctranslate2": ctranslate2.__version__}

    def logits(self, tokens: list[int], mel: Floats) -> Floats:
        """[tokens, vocabulary]: what may follow each token, given all before it; NaN before the beginning of the text.

        CTranslate2 takes the tokens after its start as written, and gives the logits that it had at each of them.
        """
        # the last of the start is <|notimestamps|>, after which no special token has a larger id
        start = tokens.index(max(tokens))
        # its limit counts tokens of the start too, and not in all models the same: too many rows are cut
        limit = 2 * len(tokens) + 8
        heard = ctranslate2.StorageView.from_array(mel[None].copy())
        (found,) = self.model.generate(
            heard, [tokens], beam_size=1, max_length=limit, suppress_blank=False, suppress_tokens=[],
            return_logits_vocab=True,
        )  # fmt: skip
        rows = [np.asarray(row, np.float32) for row in found.logits[0][: len(tokens) - start]]
        if not rows:
            raise CheckpointError("CTranslate2 gave no logits", "update CTranslate2")
        return np.stack([np.full_like(rows[0], np.nan)] * start + rows)
