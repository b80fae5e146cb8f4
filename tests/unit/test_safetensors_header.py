"""The header reader against the reference implementation, and against files that lie."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chorus.checkpoints.lazy_tensor import FileTensor, MappedFile
from chorus.checkpoints.safetensors_header import build_header, read_header
from chorus.errors import CheckpointError


def file_of(tmp_path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_reference_library_wrote(tmp_path):
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).bfloat16(),
        "c": torch.arange(4),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "half": torch.randn(2, 2).half(),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "m.safetensors")
    assert header.metadata == {"format": "pt"}
    file = MappedFile(tmp_path / "m.safetensors")
    read = {name: FileTensor(e, file).read() for name, e in header.entries.items()}
    assert len(read) == 6
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


@given(st.lists(st.tuples(st.sampled_from(["float32", "bfloat16", "float16", "int64"]),
                          st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=5))  # fmt: skip
def test_writes_what_the_reference_library_reads(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("h") / "m.safetensors"
    tensors = [(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(shapes)]
    head, starts = build_header(tensors)
    values = {n: torch.ones(s, dtype=getattr(torch, d)) for n, d, s in tensors}
    with path.open("wb") as file:
        file.write(head)
        for name, _, _ in tensors:
            assert file.tell() == starts[name]
            file.write(values[name].reshape(-1).view(torch.uint8).numpy().tobytes() if values[name].numel() else b"")
    loaded = load_file(path)
    assert all(torch.equal(loaded[n], v) for n, v in values.items())
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


LIES = {
    "header longer than the file": ({"a": entry()}, b"\0" * 8, 10_000, "the file ends after"),
    "header of 200 MB": ({"a": entry()}, b"\0" * 8, 200_000_000, "the limit is 100,000,000"),
    "header of zettabytes": ({"a": entry()}, b"\0" * 8, 2**63, "the limit is 100,000,000"),
    "not JSON": (b"{nonsense", b"", None, "not JSON"),
    "not an object": (b"[1,2]", b"", None, "not a JSON object"),
    "tensor beyond the file": ({"a": entry(shape=(4,), offsets=(0, 16))}, b"\0" * 8, None, "tensor a ends at byte"),
    "offsets that overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12, None, "overlaps"),
    "a hole between tensors": ({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20, None, "belong to no tensor"),
    "bytes after the last": ({"a": entry()}, b"\0" * 12, None, "at the end belong to no tensor"),
    "size that the dtype denies": ({"a": entry(dtype="F16")}, b"\0" * 8, None, "needs 4 bytes"),
    "unknown dtype": ({"a": entry(dtype="Q4")}, b"\0" * 8, None, "unknown dtype Q4"),
    "negative offsets": ({"a": entry(offsets=(-8, 0))}, b"\0" * 8, None, "lacks a proper dtype"),
    "reversed offsets": ({"a": entry(offsets=(8, 0))}, b"\0" * 8, None, "needs 8 bytes"),
    "negative shape": ({"a": entry(shape=(-2,))}, b"\0" * 8, None, "lacks a proper dtype"),
    "shape that is text": ({"a": entry(shape=("2",))}, b"\0" * 8, None, "lacks a proper dtype"),
    "missing fields": ({"a": {"dtype": "F32"}}, b"\0" * 8, None, "lacks a proper dtype"),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
        None,
        "names a twice",
    ),
    "deep nesting": (b"[" * 50_000, b"", None, "not JSON"),
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_refuses_a_header_that_lies(tmp_path, lie):
    header, data, length, message = LIES[lie]
    with pytest.raises(CheckpointError) as caught:
        read_header(file_of(tmp_path, header, data, length))
    assert message in str(caught.value)
    assert "model.safetensors" in str(caught.value)


def test_refuses_a_file_of_three_bytes(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="3 bytes, too few"):
        read_header(tmp_path / "m.safetensors")


def test_a_header_of_just_under_the_limit_is_read_without_harm(tmp_path):
    """100 MB of spaces is legal JSON padding; what follows it must still be checked."""
    raw = json.dumps({"a": entry()}).encode()
    path = file_of(tmp_path, raw + b" " * (99_000_000 - len(raw)), b"\0" * 8)
    assert list(read_header(path).entries) == ["a"]


def test_misaligned_tensors_are_read(tmp_path):
    header = {"a": entry("U8", (1,), (0, 1)), "b": entry("F32", (2,), (1, 9))}
    path = file_of(tmp_path, header, b"\x07" + struct.pack("<2f", 1.5, -2.0))
    entries = read_header(path).entries
    assert FileTensor(entries["b"], MappedFile(path)).read().tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"a": entry(shape=[1] * 3_000_000)}, "3,000,000 dimensions; the limit is 64"),
        ({"a" * 2000: entry()}, "is no name of a tensor"),
        ({"": entry()}, "is no name of a tensor"),
        ({"a\x1b[2J": entry()}, "is no name of a tensor"),
        ({"a\nb": entry()}, "is no name of a tensor"),
        ({"a": entry(shape=[10**4000, 10**4000])}, "lacks a proper"),
        ({"a": entry(dtype=["F32"])}, "lacks a proper"),
        ({f"a{i}": entry(shape=[0], offsets=(0, 0)) for i in range(200_001)}, "200,001 tensors; the limit is 200,000"),
    ],
)
def test_what_no_model_has_is_refused_with_its_number(tmp_path, document, told):
    path = file_of(tmp_path, json.dumps(document).encode(), b"\0" * 8)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert told in caught.value.message
    assert len(caught.value.message) < 600
    assert "\x1b" not in caught.value.message


def test_a_header_of_names_alone_is_refused_before_it_is_read(tmp_path):
    raw = b'{"' + b"a" * 30_000_000 + b'": {}}'
    with pytest.raises(CheckpointError, match="30,000,008 bytes of names and numbers; the limit is 25,000,000"):
        read_header(file_of(tmp_path, raw, b""))


def test_sixty_thousand_equal_names_are_found_at_once(tmp_path):
    raw = "{" + ", ".join(f'"a{i}": {json.dumps(entry())}' for i in [*range(60_000), 59_999]) + "}"
    with pytest.raises(CheckpointError, match="names a59999 twice"):
        read_header(file_of(tmp_path, raw.encode(), b""))
