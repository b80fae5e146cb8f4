"""whisper.cpp as a runtime: which files it is given, what is refused before it is asked, and in its own words after."""

from __future__ import annotations

import ctypes
import struct
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chorus.errors import CheckpointError, ChorusError, MissingExtraError, UsageError
from chorus.transcribe.backends import faster_whisper, huggingface, whisper_cpp
from chorus.transcribe.backends.choose import chosen_backend
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.native import library
from chorus.transcribe.native import whisper_cpp as native
from chorus.transcribe.native.remote import NativeWhisper
from chorus.transcribe.systems import open_system
from sounds import BASE

MAGIC = struct.pack("<i", 0x67676D6C)
TINY = (51865, 1500, 64, 4, 2, 448, 64, 4, 1, 80, 1)  # a header: tokens, positions, width, heads, layers ... type
needs_whisper_cpp = pytest.mark.skipif(find_spec("_pywhispercpp") is None, reason="pywhispercpp is not installed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What begins as whisper.cpp's files do, and holds no more."""
    path = tmp_path / "ggml-mine.bin"
    path.write_bytes(MAGIC)
    return path


def test_a_ggml_file_is_known_by_its_first_bytes(file: Path, tmp_path: Path) -> None:
    first = open_system(file)
    assert (first.label, first.kind, first.directory) == ("ggml-mine", "ggml", file)
    assert open_system(str(file), label="mine").label == "mine"
    renamed = file.rename(tmp_path / "renamed")
    assert open_system(renamed).identity == first.identity
    renamed.write_bytes(MAGIC + b"\0")
    assert open_system(renamed).identity != first.identity


def test_it_is_whisper_cpps_and_nobody_elses(file: Path) -> None:
    system = open_system(file)
    assert chosen_backend("auto", system) == "whisper.cpp"
    assert chosen_backend("auto", open_system(BASE)) == "transformers"
    for other in (huggingface, faster_whisper):
        with pytest.raises(UsageError, match=r"ggml-mine is converted for whisper.cpp") as caught:
            other.open_backend(system, Decoding(), "cpu")
        assert "--backend whisper.cpp" in caught.value.hint


def test_a_missing_package_says_how_to_install_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper_cpp, "find_spec", lambda name: None)
    monkeypatch.setattr(library, "DISTRIBUTION", "no-such-package")
    for ask in (lambda: whisper_cpp.open_backend(open_system(file), Decoding(), "cpu"), lambda: NativeWhisper(file)):
        with pytest.raises(MissingExtraError) as caught:
            ask()
        assert 'pip install "chorus-merge[verify]"' in caught.value.hint


@needs_whisper_cpp
@pytest.mark.parametrize(
    ("decoding", "message"),
    [(Decoding(beam=9), "--beam 9: whisper.cpp has room for 8"), (Decoding(max_new_tokens=1), "before 2")],
)
def test_what_it_cannot_do_is_refused(decoding: Decoding, message: str, file: Path) -> None:
    with pytest.raises(UsageError, match=message):
        whisper_cpp.open_backend(open_system(file), decoding, "cpu")


@needs_whisper_cpp
@pytest.mark.parametrize(
    "damaged",
    [
        MAGIC,
        MAGIC + struct.pack("<11i", *TINY),
        MAGIC + bytes(44),
        MAGIC + b"\xff" * 5000,
        MAGIC + struct.pack("<11i", 51867, *TINY[1:]) + struct.pack("<2i", 80, 201) + bytes(4 * 80 * 201 + 4),
    ],
    ids=["magic", "header", "zeros", "ones", "vocabulary"],
)
def test_a_damaged_file_is_a_clear_error(damaged: bytes, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Most of these end the process that reads them."""
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="ggml-mine"):
        whisper_cpp.open_backend(open_system(file), Decoding(), "cpu")
    with pytest.raises(CheckpointError, match=r"ggml-mine.bin: whisper.cpp cannot load it"):
        NativeWhisper(file)
    assert capfd.readouterr() == ("", ""), "its own voice is in the message"


@needs_whisper_cpp
def test_a_wheel_without_the_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.library_path().exists()
    monkeypatch.setattr(library, "NAMES", "nothing")
    with pytest.raises(ChorusError, match="carries no library"):
        library.library_path()


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("libwhisper-6f1c2a90.so.1.8.5", True), ("libwhisper.1.8.5.dylib", True), ("whisper-0a1b.dll", True),
        ("libwhisper.so", True), ("libggml-base-12.so.0.13.1", False), ("_pywhispercpp.cpython-311.so", False),
    ],
)  # fmt: skip
def test_the_library_is_found_under_every_wheels_names(name: str, fits: bool) -> None:
    import re

    assert bool(re.fullmatch(library.NAMES, name)) == fits


# ---- another build's structs ----


class OtherBuild:
    """As much of the library as a spectrum takes: a state of three integers and a vector, `shift` bytes further on."""

    def __init__(self, shift: int, *, turned: bool = False) -> None:
        self.shift, self.turned = shift, turned
        self.memory = ctypes.create_string_buffer(native.STATE_BYTES)
        self.kept = np.zeros(0, np.float32)

    def whisper_version(self) -> bytes:
        return b"9.9.9"

    def whisper_set_mel_with_state(self, context: object, state: int, values: Any, frames: int, bins: int) -> int:
        given = np.ctypeslib.as_array(ctypes.cast(values, ctypes.POINTER(ctypes.c_float)), (bins, frames))
        self.kept = np.ascontiguousarray(given.T if self.turned else given).copy()
        begin, size = self.kept.ctypes.data, self.kept.nbytes
        told = struct.pack("<4i3Q", frames, frames, bins, 0, begin, begin + size, begin + size)
        self.memory[self.shift : self.shift + len(told)] = told
        return 0

    def whisper_n_len_from_state(self, state: int) -> int:
        return struct.unpack_from("<i", self.memory, self.shift)[0]

    def whisper_pcm_to_mel_with_state(self, context: object, state: int, values: Any, count: int, threads: int) -> int:
        heard = np.full((3, count // 160), 0.5, np.float32)
        return self.whisper_set_mel_with_state(context, state, heard.ctypes.data_as(ctypes.c_void_p), count // 160, 3)


def loaded_by(build: OtherBuild, monkeypatch: pytest.MonkeyPatch) -> native.LoadedGgml:
    monkeypatch.setattr(native.LoadedGgml, "__init__", lambda self: None)
    monkeypatch.setattr(native.LoadedGgml, "versions", lambda self: {"whisper.cpp": "9.9.9"})
    made = native.LoadedGgml()  # type: ignore[call-arg] - as it is after loading
    made.library, made.context, made.state = build, 1, ctypes.addressof(build.memory)
    made.dims, made.threads, made._tried = {"n_mels": 3}, 1, False
    return made


@pytest.mark.parametrize("shift", [0, 8, 1024])
def test_a_spectrum_is_found_where_a_build_keeps_it(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded_by(OtherBuild(shift), monkeypatch).log_mel(np.zeros(8_000, np.float32))
    assert found.shape == (3, 50)
    assert (found == 0.5).all()


def test_a_build_that_keeps_spectra_in_another_way_is_told_and_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned round, what it keeps of a sound would look like any other spectrum."""
    sound = np.zeros(8_000, np.float32)
    with pytest.raises(ChorusError, match=r"9\.9\.9 gives another spectrum back than it was given") as caught:
        loaded_by(OtherBuild(0, turned=True), monkeypatch).log_mel(sound)
    assert "pywhispercpp==" in caught.value.hint
    far = OtherBuild(native.STATE_BYTES - 40)
    with pytest.raises(ChorusError, match=r"not where whisper\.cpp 9\.9\.9 is known to keep it"):
        loaded_by(far, monkeypatch).log_mel(sound)


@pytest.mark.parametrize("taken", [{}, {"use gpu": "0", "flash attn": "1"}])
def test_a_build_that_reads_other_settings_is_told(taken: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    build = SimpleNamespace(
        whisper_context_default_params=SimpleNamespace,
        whisper_init_from_file_with_params_no_state=lambda path, settings: 1,
    )
    monkeypatch.setattr(native, "library", lambda: build)
    monkeypatch.setattr(native, "Messages", lambda: SimpleNamespace(errors=[], taken=taken))
    with pytest.raises(ChorusError, match=r"x\.bin: whisper\.cpp has read other settings than it was given"):
        native.LoadedGgml("x.bin")


def test_what_to_install_is_what_is_tried() -> None:
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert library.KNOWN.removeprefix('pip install "').removesuffix('"') in constraints
