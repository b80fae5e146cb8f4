"""The child of faster_whisper.py: one CTranslate2 model, and after each token of a row what it holds likely."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from chorus.plain import JsonObject
from chorus.transcribe.backends.child import pipes
from chorus.transcribe.backends.messages import told_error

if TYPE_CHECKING:
    import ctranslate2

    from chorus.verify.protocol import Floats


def forced(model: ctranslate2.models.Whisper, mel: Floats, tokens: list[int]) -> Floats:
    """[tokens, vocabulary]: what may follow each token, given all before it; NaN before the beginning of the text.

    CTranslate2 takes the tokens after its start as written, and gives the logits that it had at each of them.
    """
    import ctranslate2

    # the last of the start is <|notimestamps|>, after which no special token has a larger id
    start = tokens.index(max(tokens))
    # its limit counts tokens of the start too, and not in all models the same: too many rows are cut
    limit = 2 * len(tokens) + 8
    heard = ctranslate2.StorageView.from_array(mel[None].copy())
    (found,) = model.generate(
        heard, [tokens], beam_size=1, max_length=limit, suppress_blank=False, suppress_tokens=[],
        return_logits_vocab=True,
    )  # fmt: skip
    rows = [np.asarray(row, np.float32) for row in found.logits[0][: len(tokens) - start]]
    return np.stack([np.full_like(rows[0], np.nan)] * start + rows)


def serve(requests: BinaryIO, replies: BinaryIO, asked: JsonObject) -> None:
    """Answer until the input ends."""
    model = None
    while line := requests.readline():
        data = b""
        try:
            import ctranslate2

            if model is None:
                # in the loop: a directory that cannot be loaded is an answer, as any other error
                model = ctranslate2.models.Whisper(asked["path"], device="cpu", compute_type=asked["computed"])
            if line.strip() == b"about":
                reply: JsonObject = {"versions": {"ctranslate2": ctranslate2.__version__}}
            else:
                request = json.loads(line)
                size = 4 * int(np.prod(request["shape"]))
                mel = np.frombuffer(requests.read(size), np.float32).reshape(request["shape"])
                found = forced(model, mel, request["tokens"])
                reply, data = {"shape": found.shape}, found.tobytes()
        except Exception as error:  # whatever a runtime raises is told, and counted, by the parent
            reply, data = {"error": told_error(error)}, b""
        replies.write(json.dumps(reply).encode() + b"\n" + data)
        replies.flush()


if __name__ == "__main__":
    serve(*pipes(), json.loads(sys.argv[1]))
