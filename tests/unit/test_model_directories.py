"""Model directories and their tensors: files and shards, pickles, task vectors; what is refused, and how."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from chorus.architectures.openai_whisper import transformers_config, transformers_name
from chorus.checkpoints.directory import open_directory, refuse_quantised
from chorus.checkpoints.dtypes import DTYPES, FLOATS, itemsize, parse_dtype, promote, torch_dtype
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, HeaderTensor, LazyTensor, MappedFile, MemoryTensor
from chorus.checkpoints.model import shard_names
from chorus.checkpoints.pickled import load_pickle
from chorus.checkpoints.safetensors_header import build_header, read_header
from chorus.checkpoints.task_vector import TASK_VECTOR, apply_task_vector, open_task_vector
from chorus.checkpoints.weights import OnDisk, WeightFiles, weight_files
from chorus.errors import CheckpointError
from chorus.files import read_json
from models import write_model

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1, -2], dtype=torch.bfloat16)}
ORDER = ("pytorch_model.bin.index.json", "pytorch_model.bin", "model.safetensors.index.json", "model.safetensors")
CONFIG = {"architectures": ["Anything"], "model_type": "any"}


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "m", TENSORS, CONFIG)


def shards(place, parts, weight_map=None):
    """A model in shards; `weight_map` may lie."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(CONFIG))
    for name, tensors in parts.items():
        save_file(tensors, place / name)
    told = weight_map or {tensor: name for name, tensors in parts.items() for tensor in tensors}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": told}))
    return place


def refused(place, message, **more):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_directory(place, "mine", **more)
    assert caught.value.hint
    return caught.value


# ---- what is opened ----


def test_one_file_is_a_mapping_of_its_tensors(model):
    found = open_directory(model, "mine")
    assert list(found.checkpoint) == list(TENSORS)
    assert (found.label, found.config, found.directory) == ("mine", CONFIG, model)
    for name, tensor in TENSORS.items():
        lazy = found.checkpoint[name]
        assert isinstance(lazy, LazyTensor)
        assert (lazy.name, lazy.shape, torch_dtype(lazy.dtype)) == (name, tuple(tensor.shape), tensor.dtype)
        assert torch.equal(lazy.read(), tensor)


def test_shards_are_one_mapping(tmp_path):
    parts = {f"model-{i}-of-3.safetensors": {f"t{i}": torch.full((i + 1,), float(i))} for i in range(3)}
    found = open_directory(shards(tmp_path / "m", parts), "mine")
    assert set(found.checkpoint) == {"t0", "t1", "t2"}
    assert found.checkpoint["t2"].read().tolist() == [2.0, 2.0, 2.0]
    assert set(found.paths) == set(found.files) == set(parts)


def chosen(place, **config):
    return weight_files(OnDisk(place), config, "mine")


def put(place, *names, text=b""):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(text or json.dumps({"weight_map": {"t": "s-1"}}).encode())


def test_a_single_file_of_another_name_is_taken_and_two_are_not(model):
    (model / "model.safetensors").rename(model / "weights.safetensors")
    assert chosen(model).names == ("weights.safetensors",)
    save_file(TENSORS, model / "adapter_model.safetensors")  # an adapter beside it is none
    assert chosen(model).names == ("weights.safetensors",)
    save_file(TENSORS, model / "more.safetensors")
    refused(model, r"no model\.safetensors.*there are adapter_model\.safetensors, more\.safetensors, weights")


def test_weights_are_looked_for_in_the_order_of_transformers(tmp_path):
    """From the last to the first: each goes before all that were there."""
    put(tmp_path, "s-1", "model.pt")
    for name in ("model.pt", *ORDER):
        put(tmp_path, name)
        found = chosen(tmp_path)
        assert found.names == (("s-1",) if name.endswith("json") else (name,))
        assert found.pickled == ("safetensors" not in name)
        assert found.all_names == [*found.names, *([name] if name.endswith("json") else [])]
        assert bool(found.warnings) == (name in ("pytorch_model.bin", "model.safetensors"))
    put(tmp_path, "own.safetensors")
    assert chosen(tmp_path, transformers_weights="own.safetensors") == WeightFiles(("own.safetensors",))
    put(tmp_path, "own.safetensors.index.json")
    assert chosen(tmp_path, transformers_weights="own.safetensors.index.json").names == ("s-1",)


def test_transformers_looks_in_the_same_order(tmp_path):
    from transformers.modeling_utils import _get_resolved_checkpoint_files as theirs

    put(tmp_path, "s-1", text=json.dumps({"weight_map": {"t": "s-1"}, "metadata": {}}).encode())
    for name in ORDER:
        put(tmp_path, name, text=(tmp_path / "s-1").read_bytes())
        found, _ = theirs(tmp_path, None, None, None, None, False)
        assert [p.rsplit("/", 1)[1] for p in found] == list(chosen(tmp_path).names)


@pytest.mark.parametrize(
    "index", [b'{"weight_map": {"t": "s-1"}}', b"{", b'{"weight_map": 1}', b'{"weight_map": {"t": "../x"}}']
)
def test_an_index_that_was_left_behind_is_told_and_not_read(model, index):
    put(model, "model.safetensors.index.json", text=index)
    found = open_directory(model, "mine")
    assert set(found.checkpoint) == set(TENSORS)
    (warning,) = found.warnings
    assert "model.safetensors is read, as transformers does" in warning


def test_an_index_of_the_one_file_is_no_second_opinion(model):
    put(model, "model.safetensors.index.json", text=b'{"weight_map": {"t": "model.safetensors"}}')
    assert open_directory(model, "mine").warnings == []


def test_a_lone_file_does_not_go_before_a_pickle(model):
    (model / "model.safetensors").rename(model / "weights.safetensors")
    torch.save(TENSORS, model / "pytorch_model.bin")
    refused(model, "a pickled checkpoint")
    assert set(open_directory(model, "mine", allow_pickle=True).paths) == {"pytorch_model.bin"}


def test_shards_of_a_pickle_are_one_mapping(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    told = {"a.weight": "pytorch_model-1.bin", "b.bias": "pytorch_model-2.bin"}
    for name, file in told.items():
        torch.save({name: TENSORS[name]}, tmp_path / file)
    put(tmp_path, "pytorch_model.bin.index.json", text=json.dumps({"weight_map": told}).encode())
    refused(tmp_path, "a pickled checkpoint")
    found = open_directory(tmp_path, "mine", allow_pickle=True)
    assert set(found.checkpoint) == set(TENSORS)
    assert set(found.paths) == set(told.values())


def test_mistrals_own_files_are_called_that(model):
    (model / "model.safetensors").rename(model / "consolidated.safetensors")
    refused(model, r"Mistral's own format \(consolidated\.safetensors\)")


@pytest.mark.parametrize(
    ("stated", "message"),
    [("../m.safetensors", "lies outside"), ("none.safetensors", "is missing"), ("m.bin", "neither a safetensors file")],
)
def test_weights_that_a_config_names_are_inside_and_there(model, stated, message):
    put(model, "m.bin")
    (model / "config.json").write_text(json.dumps({**CONFIG, "transformers_weights": stated}))
    refused(model, message)


def test_an_index_that_promises_more_than_its_shards_hold_is_told(tmp_path):
    told = {"t": "m-1.safetensors", "u": "m-1.safetensors"}
    (warning,) = open_directory(shards(tmp_path / "m", {"m-1.safetensors": {"t": torch.zeros(1)}}, told), "m").warnings
    assert "1 tensors are in none of its shards (u, ...)" in warning


def test_a_checkpoint_is_read_only():
    made = Checkpoint({"a": MemoryTensor("a", torch.zeros(1))}, "mine")
    assert (len(made), "a" in made, "b" in made, list(made)) == (1, True, False, ["a"])
    with pytest.raises(TypeError):
        made["b"] = made["a"]
    with pytest.raises(KeyError):
        made["b"]


def test_the_same_content_is_the_same_model_wherever_it_lies(model, tmp_path):
    same = write_model(tmp_path / "other", TENSORS, CONFIG)
    marks = {open_directory(place, label).fingerprint() for place, label in ((model, "a"), (same, "b"))}
    assert len(marks) == 1
    (same / "generation_config.json").write_text("{}")
    marks.add(open_directory(same, "b").fingerprint())
    write_model(same, {**TENSORS, "b.bias": TENSORS["b.bias"] + 1}, CONFIG)
    marks.add(open_directory(same, "b").fingerprint())
    assert len(marks) == 3


# ---- what is refused ----


def test_directories_that_are_no_models(model):
    (model / "model.safetensors").unlink()
    refused(model, r"no model\.safetensors and no")
    (model / "config.json").unlink()
    refused(model, r"not a model \(no config\.json\)")


@pytest.mark.parametrize(("text", "message"), [("{", "not readable as JSON"), ("[1]", "not a JSON object")])
def test_a_damaged_config_is_told(model, text, message):
    (model / "config.json").write_text(text)
    refused(model, message)


def test_json_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")


def test_a_tensor_in_two_files_is_refused(tmp_path):
    parts = {"x.safetensors": {"t": torch.zeros(1)}, "y.safetensors": {"t": torch.ones(1), "u": torch.ones(1)}}
    refused(shards(tmp_path / "m", parts, {"t": "x.safetensors", "u": "y.safetensors"}), "t stands in two files")


@pytest.mark.parametrize(
    "name", ["../m.safetensors", "/etc/m.safetensors", "a/../../m.safetensors", "..\\m.safetensors"]
)
def test_no_shard_lies_outside_the_model(tmp_path, name):
    refused(shards(tmp_path / "m", {}, {"t": name}), "lies outside the model's directory")


def test_a_missing_shard_is_named(tmp_path):
    refused(shards(tmp_path / "m", {}, {"t": "model-1.safetensors"}), r"the shard model-1\.safetensors is missing")


@pytest.mark.parametrize("weight_map", [None, {}, ["a"], "a"])
def test_an_index_without_a_map_is_refused(weight_map):
    with pytest.raises(CheckpointError, match="no weight_map"):
        shard_names({"weight_map": weight_map}, "index", lambda name: True)


def test_shards_are_named_once_and_in_order():
    index = {"weight_map": {"c": "m-2", "a": "m-1", "b": "m-2"}}
    assert shard_names(index, "index", lambda name: True) == ["m-1", "m-2"]


@pytest.mark.parametrize(("value", "kind"), [({"quant_method": "awq"}, "awq"), ("int8", "unknown"), ([1], "unknown")])
def test_quantised_models_are_refused_by_their_config(value, kind):
    refuse_quantised({"quantization_config": None}, "mine")  # as some write where there is none
    with pytest.raises(CheckpointError, match=rf"mine: the weights are quantised \({kind}\)"):
        refuse_quantised({"quantization_config": value}, "mine")


@pytest.mark.parametrize(
    "name", ["l.SCB", "l.absmax", "l.quant_map", "l.qweight", "l.qzeros", "l.weight_scale", "l.weight_scale_inv",
             "l.quant_state.bitsandbytes__nf4"],
)  # fmt: skip
def test_quantised_models_are_refused_by_their_names(tmp_path, name):
    refused(write_model(tmp_path / "m", {name: torch.zeros(1)}, CONFIG), "belongs to a quantised model")


def test_mlx_is_told_by_its_config_and_its_numbers(tmp_path):
    with pytest.raises(CheckpointError, match=r"mine: the weights are quantised \(MLX\)"):
        refuse_quantised({"quantization": {"group_size": 64, "bits": 4}}, "mine")
    refuse_quantised({"quantization": None}, "mine")
    packed = {"l.weight": torch.zeros(2, 2, dtype=torch.uint32)}
    told = refused(write_model(tmp_path / "m", packed, CONFIG), "holds U32, which is for quantised weights")
    assert "unquantised" in told.hint


def test_float8_weights_are_refused(tmp_path):
    weights = {"l.weight": torch.zeros(2).to(torch.float8_e4m3fn)}
    refused(write_model(tmp_path / "m", weights, CONFIG), "float8_e4m3fn")


# ---- tensors, unread ----


@given(st.lists(st.integers(0, 30), min_size=2, max_size=2).map(sorted), st.sampled_from(sorted(DTYPES)))
def test_ranges_of_every_type_are_what_was_saved(tmp_path_factory, bounds, dtype):
    start, stop = bounds
    place = tmp_path_factory.mktemp("t") / "m.safetensors"
    values = torch.arange(30).reshape(5, 6).to(torch_dtype(dtype))
    save_file({"x": torch.zeros(1, dtype=torch.uint8), "t": values}, place)  # an odd byte before it: out of step
    header = read_header(place)
    lazy = FileTensor(header.entries["t"], MappedFile(place))
    expected = values.reshape(-1)[start:stop].contiguous()
    assert torch.equal(lazy.flat(start, stop).view(torch.uint8), expected.view(torch.uint8))
    assert lazy.bytes(start, stop).nbytes == (stop - start) * itemsize(dtype)


def test_tensors_without_values_and_without_dimensions(tmp_path):
    save_file({"none": torch.zeros(0, 4), "one": torch.tensor(2.5)}, tmp_path / "m.safetensors")
    header, file = read_header(tmp_path / "m.safetensors"), MappedFile(tmp_path / "m.safetensors")
    assert FileTensor(header.entries["none"], file).read().shape == (0, 4)
    assert FileTensor(header.entries["one"], file).read().item() == 2.5


def test_a_file_is_mapped_once_and_never_written(model):
    file = MappedFile(model / "model.safetensors")
    before = (model / "model.safetensors").read_bytes()
    assert file.bytes() is file.bytes()
    file.bytes()[:] = 0  # of the process, not of the file
    assert (model / "model.safetensors").read_bytes() == before


def test_memory_tensors_are_what_they_hold():
    value = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    made = MemoryTensor("t", value)
    assert (made.name, made.dtype, made.shape) == ("t", "float32", (3, 2))
    assert made.flat(1, 4).tolist() == value.reshape(-1)[1:4].tolist()
    assert not made.read().requires_grad


def test_a_header_alone_gives_no_values(model):
    entry = read_header(model / "model.safetensors").entries["a.weight"]
    made = HeaderTensor(entry, "org/name")
    assert (made.name, made.shape, made.dtype) == ("a.weight", (2, 3), "float32")
    for read in (made.read, lambda: made.flat(0, 1)):
        with pytest.raises(CheckpointError, match="org/name: the weights were not downloaded"):
            read()


@given(st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)), max_size=5))
def test_headers_are_read_back_as_they_were_written(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("h") / "m.safetensors"
    given_ = [(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(tensors)]
    head, starts = build_header(given_)
    size = sum(math.prod(shape) * itemsize(dtype) for _, dtype, shape in given_)
    path.write_bytes(head + bytes(size))
    found = read_header(path)
    assert len(head) % 8 == 0
    assert {(e.name, e.dtype, e.shape) for e in found.entries.values()} == set(given_)
    assert {name: e.start for name, e in found.entries.items()} == starts
    assert set(load_file(path)) == {name for name, _, _ in given_}  # the reference implementation agrees


# ---- types ----


def test_types_are_torchs_of_the_same_name_and_size():
    assert len(DTYPES) == 12
    for name in DTYPES:
        assert str(torch_dtype(name)) == f"torch.{name}"
        assert itemsize(name) == torch_dtype(name).itemsize
    assert len({code for code, _ in DTYPES.values()}) == 12


@given(st.lists(st.sampled_from(FLOATS), min_size=1, max_size=4))
def test_floats_are_promoted_as_torch_promotes(dtypes):
    expected = torch_dtype(dtypes[0])
    for other in dtypes[1:]:
        expected = torch.promote_types(expected, torch_dtype(other))
    assert torch_dtype(promote(dtypes)) == expected


def test_whole_numbers_stay_what_the_first_is():
    assert promote(["int64", "int32"]) == "int64"
    assert promote(["int64", "float16"]) == "float16"


@pytest.mark.parametrize("text", ["bf16", "fp16", "half", "fp32", "float", "int4", ""])
def test_types_that_a_recipe_may_not_name(text):
    with pytest.raises(ValueError, match="is not known"):
        parse_dtype(text)


# ---- pickles ----


def pickled(place, state, name="pytorch_model.bin", **config):
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps({**CONFIG, **config}))
    torch.save(state, place / name)
    return place


@pytest.mark.parametrize("wrapped", [False, True], ids=["flat", "under state_dict"])
def test_a_pickle_is_opened_when_it_is_allowed(tmp_path, wrapped):
    place = pickled(tmp_path / "m", {"state_dict": TENSORS} if wrapped else TENSORS)
    error = refused(place, "a pickled checkpoint, which is not opened by default")
    assert "--allow-pickle" in error.hint
    found = open_directory(place, "mine", allow_pickle=True)
    assert {name: t.read().tolist() for name, t in found.checkpoint.items()} == {
        name: t.tolist() for name, t in TENSORS.items()
    }


def test_pickles_in_shards(tmp_path):
    place = tmp_path / "m"
    for i, (name, tensor) in enumerate(TENSORS.items()):
        pickled(place, {name: tensor}, f"pytorch_model-{i}.bin")
    weight_map = {name: f"pytorch_model-{i}.bin" for i, name in enumerate(TENSORS)}
    (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert set(open_directory(place, "mine", allow_pickle=True).checkpoint) == set(TENSORS)


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize("content", ["code", "damage"])
def test_a_pickle_that_could_run_code_is_not_loaded(tmp_path, capsys, content):
    path = tmp_path / "m.pt"
    if content == "code":
        torch.save({"a": Harm()}, path)
    else:
        path.write_bytes(b"\x80\x02not a pickle")
    with pytest.raises(CheckpointError, match="cannot be loaded as plain tensors"):
        load_pickle(path, allow_pickle=True)
    assert "harm" not in capsys.readouterr().out


def test_what_is_no_flat_map_of_tensors_is_refused(tmp_path):
    place = pickled(tmp_path / "m", {"a": {"b": torch.zeros(1)}})
    refused(place, "not a flat map of names to tensors", allow_pickle=True)


@pytest.mark.parametrize(("tied", "kept"), [(True, {"model.embed_tokens.weight"}), (False, None)])
def test_a_tied_head_is_kept_once(tmp_path, tied, kept):
    weight = torch.arange(4.0)
    state = {"model.embed_tokens.weight": weight, "lm_head.weight": weight}
    place = pickled(tmp_path / "m", state, tie_word_embeddings=tied)
    assert set(open_directory(place, "mine", allow_pickle=True).checkpoint) == (kept or set(state))


def test_a_head_of_its_own_is_kept_even_where_the_config_says_tied(tmp_path):
    state = {"model.embed_tokens.weight": torch.arange(4.0), "lm_head.weight": torch.arange(4.0) + 1}
    place = pickled(tmp_path / "m", state, tie_word_embeddings=True)
    found = open_directory(place, "mine", allow_pickle=True)
    assert set(found.checkpoint) == set(state)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("encoder.blocks.3.attn.query.weight", "model.encoder.layers.3.self_attn.q_proj.weight"),
        ("encoder.blocks.0.attn_ln.bias", "model.encoder.layers.0.self_attn_layer_norm.bias"),
        ("encoder.blocks.0.mlp.0.weight", "model.encoder.layers.0.fc1.weight"),
        ("encoder.blocks.0.mlp.2.bias", "model.encoder.layers.0.fc2.bias"),
        ("encoder.blocks.0.mlp_ln.weight", "model.encoder.layers.0.final_layer_norm.weight"),
        ("encoder.ln_post.weight", "model.encoder.layer_norm.weight"),
        ("encoder.conv1.weight", "model.encoder.conv1.weight"),
        ("encoder.positional_embedding", "model.encoder.embed_positions.weight"),
        ("decoder.positional_embedding", "model.decoder.embed_positions.weight"),
        ("decoder.token_embedding.weight", "model.decoder.embed_tokens.weight"),
        ("decoder.blocks.1.cross_attn.key.weight", "model.decoder.layers.1.encoder_attn.k_proj.weight"),
        ("decoder.blocks.1.cross_attn.value.bias", "model.decoder.layers.1.encoder_attn.v_proj.bias"),
        ("decoder.blocks.1.cross_attn_ln.bias", "model.decoder.layers.1.encoder_attn_layer_norm.bias"),
        ("decoder.blocks.1.attn.out.bias", "model.decoder.layers.1.self_attn.out_proj.bias"),
        ("decoder.ln.weight", "model.decoder.layer_norm.weight"),
    ],
)
def test_openai_whispers_names(theirs, ours):
    assert transformers_name(theirs) == ours


@pytest.mark.parametrize(("vocabulary", "start"), [(51864, 50257), (51865, 50258), (51866, 50258)])
def test_openai_whispers_dimensions_make_a_config_of_transformers(vocabulary, start):
    from transformers import WhisperConfig

    dims = {
        "n_vocab": vocabulary, "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 384, "n_audio_head": 6,
        "n_audio_layer": 4, "n_text_ctx": 448, "n_text_state": 384, "n_text_head": 6, "n_text_layer": 4,
    }  # fmt: skip
    made = WhisperConfig(**transformers_config(dims))
    assert (made.decoder_start_token_id, made.eos_token_id) == (start, start - 1)
    assert (made.encoder_ffn_dim, made.decoder_ffn_dim, made.num_hidden_layers) == (1536, 1536, 4)


# ---- task vectors ----


def vector(place, tensors):
    place.mkdir()
    save_file(tensors, place / TASK_VECTOR)
    return place


def test_a_task_vector_is_added_in_float32(model, tmp_path):
    shift = {"a.weight": torch.full((2, 3), 0.25), "b.bias": torch.tensor([2.0**-12, 1.0])}
    place = vector(tmp_path / "v", shift)
    assert torch.equal(open_task_vector(place)["a.weight"].read(), shift["a.weight"])
    base = open_directory(model, "base")
    found = apply_task_vector(base, place, "base+v")
    for name, tensor in TENSORS.items():
        lazy = found.checkpoint[name]
        assert (lazy.dtype, lazy.shape) == ("float32", tuple(tensor.shape))
        assert torch.equal(lazy.read(), tensor.float() + shift[name])
        assert torch.equal(lazy.flat(1, 2), (tensor.float() + shift[name]).reshape(-1)[1:2])
        assert torch.equal(lazy.difference(0, 2), shift[name].reshape(-1)[:2])
    assert found.label == "base+v"
    assert base.checkpoint["a.weight"].dtype == "float32"
    assert torch.equal(base.checkpoint["a.weight"].read(), TENSORS["a.weight"])  # the base stays
    assert found.fingerprint() != base.fingerprint()


def test_tensors_that_a_task_vector_leaves_out_stay(model, tmp_path):
    found = apply_task_vector(
        open_directory(model, "base"), vector(tmp_path / "v", {"b.bias": torch.ones(2)}), "base+v"
    )
    assert torch.equal(found.checkpoint["a.weight"].read(), TENSORS["a.weight"])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("c.weight", (2,), r"base has no tensor c\.weight"),
        ("a.weight", (3, 2), r"of shape \[3, 2\], base has \[2, 3\]"),
    ],
)
def test_a_task_vector_of_another_model_is_refused(model, tmp_path, name, shape, message):
    place = vector(tmp_path / "v", {name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=message):
        apply_task_vector(open_directory(model, "base"), place, "base+v")


def test_bytes_in_memory_are_the_files(model):
    """What the fast paths read is what safetensors reads."""
    file = MappedFile(model / "model.safetensors")
    for name, entry in read_header(model / "model.safetensors").entries.items():
        raw = FileTensor(entry, file).bytes(0, TENSORS[name].numel())
        assert raw.tobytes() == TENSORS[name].contiguous().view(torch.uint8).numpy().tobytes()
        assert raw.dtype == np.uint8
