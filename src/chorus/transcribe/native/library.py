"""whisper.cpp's library as pywhispercpp carries it, by ctypes: what that package's own bindings leave out."""

from __future__ import annotations

import ctypes
import os
import re
from ctypes import POINTER, c_char_p, c_float, c_int, c_void_p
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from chorus.errors import ChorusError, MissingExtraError

DISTRIBUTION = "pywhispercpp"
NAMES = r"(lib)?whisper[-.\w]*\.(so|dylib|dll)[.\d]*"  # a wheel's repair puts a hash into the name
ERROR = 4  # of ggml's levels of messages
EMPTY = "no tensors loaded"  # the library takes a file without weights, for its own tests
TAKEN = re.compile(r"(use gpu|flash attn) *= (\d+)")  # how it tells what it has read of our settings
KNOWN = f'pip install "{DISTRIBUTION}==1.5.1"'  # what this is tried with
SHOW = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class ContextSettings(ctypes.Structure):
    """How a model is loaded. Only the first two are ours to set; the struct's others, which grow, fit into the rest.

    Another build may have them elsewhere: `Messages.taken` says what it has read.
    """

    _fields_ = (
        ("use_gpu", ctypes.c_bool), ("flash_attn", ctypes.c_bool), ("more", ctypes.c_uint8 * 6),
        ("rest", ctypes.c_uint64 * 15),
    )  # fmt: skip


SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "whisper_version": (c_char_p, []),
    "whisper_log_set": (None, [SHOW, c_void_p]),
    "whisper_context_default_params": (ContextSettings, []),
    "whisper_init_from_file_with_params_no_state": (c_void_p, [c_char_p, ContextSettings]),
    "whisper_init_state": (c_void_p, [c_void_p]),
    "whisper_free": (None, [c_void_p]),
    "whisper_free_state": (None, [c_void_p]),
    "whisper_pcm_to_mel_with_state": (c_int, [c_void_p, c_void_p, c_void_p, c_int, c_int]),
    "whisper_set_mel_with_state": (c_int, [c_void_p, c_void_p, c_void_p, c_int, c_int]),
    "whisper_encode_with_state": (c_int, [c_void_p, c_void_p, c_int, c_int]),
    "whisper_decode_with_state": (c_int, [c_void_p, c_void_p, POINTER(c_int), c_int, c_int, c_int]),
    "whisper_get_logits_from_state": (POINTER(c_float), [c_void_p]),
    "whisper_n_len_from_state": (c_int, [c_void_p]),
    "whisper_tokenize": (c_int, [c_void_p, c_char_p, POINTER(c_int), c_int]),
    "whisper_lang_str": (c_char_p, [c_int]),
    "whisper_token_lang": (c_int, [c_void_p, c_int]),
    **{f"whisper_token_{name}": (c_int, [c_void_p]) for name in
       ("eot", "sot", "solm", "prev", "nosp", "not", "beg", "translate", "transcribe")},
    **{f"whisper_model_{name}": (c_int, [c_void_p]) for name in
       ("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state",
        "n_text_head", "n_text_layer", "n_mels", "ftype")},
}  # fmt: skip


def library_path() -> Path:
    """Where the installed package has the library; `MissingExtraError` where there is no such package."""
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise MissingExtraError("verify", "whisper.cpp") from None
    for file in installed.files or []:
        if re.fullmatch(NAMES, file.name):
            return Path(str(installed.locate_file(file)))
    raise ChorusError(f"{DISTRIBUTION} {installed.version} carries no library of whisper.cpp", "install its wheel")


@cache
def library() -> ctypes.CDLL:
    """The library, loaded into this process, whose failed assertions end it: for child processes alone."""
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else ggml starts a debugger over the process that it ends
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take each other's cores on a busy machine
    path = library_path()
    import _pywhispercpp  # noqa: F401 - finds the libraries that this one needs

    found = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(found, name, None)
        if function is None:
            raise ChorusError(f"{path.name} of {DISTRIBUTION} has no {name}", KNOWN)
        function.restype, function.argtypes = result, arguments
    return found


class Messages:
    """What the library says instead of printing it.

    errors: what tells of a failure, oldest first.
    taken: the settings of a context, as the library has read them.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.taken: dict[str, str] = {}
        self._show = SHOW(self._said)  # the library calls it as long as it is loaded: it must not be collected
        library().whisper_log_set(self._show, None)

    def _said(self, level: int, text: bytes, _: object) -> None:
        said = text.decode(errors="replace").strip()
        self.taken |= dict(TAKEN.findall(said))
        if level >= ERROR or EMPTY in said:
            self.errors.append(re.sub(r"^\w+: ((ERROR|WARN) )?", "", said))

    def first(self, otherwise: str = "no reason given") -> str:
        """The first error since the last one that was asked for."""
        found, self.errors = next(iter(self.errors), otherwise), []
        return found
