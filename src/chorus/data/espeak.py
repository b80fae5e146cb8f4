"""espeak-ng in a process of its own: `python -m chorus.data.espeak` speaks what its standard input asks for.

The library is GPL-3.0 and comes with the extra `synth` (the `espeakng-loader` wheel, with voices for a hundred
languages). It is loaded by this child process alone; Chorus talks to it over pipes.

    in    one JSON object a line: {"text", "voice", "rate_wpm", "pitch", "range", "seed"}
    out   an int32 sample rate, then for each line an int32 number of samples and as many int16 samples;
          a negative number is the length of an error message in UTF-8 that follows instead
"""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from chorus.errors import ChorusError, DataError, MissingExtraError
from chorus.plain import JsonObject

if TYPE_CHECKING:
    from chorus.data.audio import Audio

SYNCHRONOUS, BUFFER_MS, UTF8, CHARACTERS = 2, 500, 1, 1  # espeak_AUDIO_OUTPUT, espeakCHARS_UTF8, POS_CHARACTER
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
OK = 0


class Speaker:
    """The parent's side: one child, asked for one utterance after the other."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], rate: int) -> None:
        self.stdin, self.stdout, self.rate = stdin, stdout, rate

    def say(
        self, text: str, *, voice: str, rate_wpm: int = 160, pitch: int = 50, spread: int = 50, seed: int = 1
    ) -> Audio:
        """Speech [samples] float32 at `self.rate`. `DataError` where the voice is unknown or nothing is said."""
        import numpy as np

        request = {"text": text, "voice": voice, "rate_wpm": rate_wpm, "pitch": pitch, "range": spread, "seed": seed}
        try:
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()
            (count,) = struct.unpack("<i", _read(self.stdout, 4))
        except (BrokenPipeError, EOFError):
            raise ChorusError(f"espeak-ng ended while it said {text!r} as {voice}", "try another voice") from None
        if count < 0:
            raise DataError(_read(self.stdout, -count).decode(), "`espeak-ng --voices` lists them: pt, de+f2, ar+m3")
        samples = np.frombuffer(_read(self.stdout, 2 * count), np.int16)
        return samples.astype(np.float32) / np.float32(32768)


@contextmanager
def speaker() -> Iterator[Speaker]:
    """A child process with the library loaded."""
    try:
        import espeakng_loader
    except ImportError:
        raise MissingExtraError("synth", "synthetic speech") from None
    command = [sys.executable, "-m", "chorus.data.espeak"]
    command += [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
    # a child: the licence of the library (GPL-3.0) stays on its side of the pipe, and so do its crashes
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            (rate,) = struct.unpack("<i", _read(child.stdout, 4))
            yield Speaker(child.stdin, child.stdout, rate)
        except EOFError:
            raise ChorusError("espeak-ng could not be started", "reinstall espeakng-loader") from None
        finally:
            child.stdin.close()  # the end of its input ends the child
            child.wait(10)


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve(library_path: str, data_path: str) -> None:
    """The child: load the library, answer requests until the input ends."""
    library = ctypes.CDLL(library_path)
    rate = library.espeak_Initialize(SYNCHRONOUS, BUFFER_MS, data_path.encode(), 0)
    if rate <= 0:
        raise SystemExit("espeak_Initialize failed")
    chunks: list[bytes] = []
    callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _: ctypes.c_void_p) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = callback_type(collect)  # kept alive here: the library holds only its address
    library.espeak_SetSynthCallback(callback)
    out = sys.stdout.buffer
    out.write(struct.pack("<i", rate))
    out.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        chunks.clear()
        problem = _speak(library, request)
        data = b"".join(chunks)
        if problem or not data:
            message = (problem or f"espeak-ng says nothing for {request['text']!r}").encode()
            out.write(struct.pack("<i", -len(message)) + message)
        else:
            out.write(struct.pack("<i", len(data) // 2) + data)
        # the parent waits for this answer before it asks again: a buffered one would stop both
        out.flush()


def _speak(library: ctypes.CDLL, request: JsonObject) -> str:
    if library.espeak_SetVoiceByName(request["voice"].encode()) != OK:
        return f"espeak-ng has no voice {request['voice']!r}"
    for parameter, key in ((RATE, "rate_wpm"), (PITCH, "pitch"), (RANGE, "range")):
        library.espeak_SetParameter(parameter, int(request[key]), 0)
    if hasattr(library, "espeak_ng_SetRandSeed"):  # breath is noise; the library seeds it by the clock
        library.espeak_ng_SetRandSeed(ctypes.c_long(int(request["seed"])))
    # older libraries draw from the C library's rand; CDLL(None) is the process, and that library with it
    ctypes.CDLL(None).srand(int(request["seed"]))
    text = request["text"].encode()
    # the length counts the closing zero
    if library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, CHARACTERS, 0, UTF8, None, None) != OK:
        return f"espeak-ng cannot say {request['text']!r}"
    return ""


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
