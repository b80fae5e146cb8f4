"""How tensors come to lie in weight files, and what the config and the index say of them."""

from __future__ import annotations

from chorus.checkpoints.safetensors_header import build_header
from chorus.checkpoints.shards import Stored, index_of, lay_out, stored_config


def tensor(name: str, count: int, dtype: str = "float32") -> Stored:
    return name, dtype, (count,)


def test_a_shard_may_be_as_large_as_the_limit_and_no_larger() -> None:
    tensors = [tensor("a", 10), tensor("b", 10), tensor("c", 5)]
    assert [list(shard.starts) for shard in lay_out(tensors, 80)] == [["a", "b"], ["c"]]
    assert [list(shard.starts) for shard in lay_out(tensors, 79)] == [["a"], ["b", "c"]]
    assert [shard.file for shard in lay_out(tensors, 100)] == ["model.safetensors"]


def test_what_is_above_the_limit_has_a_file_to_itself() -> None:
    shards = lay_out([tensor("a", 1), tensor("b", 100), tensor("c", 1)], 80)
    assert [(shard.file, list(shard.starts)) for shard in shards] == [
        (f"model-{i:05d}-of-00003.safetensors", [name]) for i, name in enumerate("abc", 1)
    ]
    header, starts = build_header([tensor("b", 100)])
    assert (shards[1].header, shards[1].starts, shards[1].size) == (header, starts, len(header) + 400)


def test_the_index_counts_the_tensors_and_not_the_headers() -> None:
    found = index_of(lay_out([tensor("b", 10), tensor("a", 10, "float16")], 40))
    assert found["metadata"] == {"total_size": 60}
    assert list(found["weight_map"]) == ["a", "b"]
    assert found["weight_map"]["a"] == "model-00002-of-00002.safetensors"


def test_the_config_names_the_type_that_most_bytes_are_in() -> None:
    given = {"torch_dtype": "float32", "_name_or_path": "a/model/elsewhere", "transformers_weights": "x", "d_model": 8}
    mostly = [tensor("norm", 10), tensor("matrix", 30, "bfloat16")]
    assert stored_config(given, mostly) == {"d_model": 8, "dtype": "bfloat16"}
    assert stored_config(given, [tensor("norm", 10), tensor("matrix", 19, "bfloat16")])["dtype"] == "float32"
    assert "torch_dtype" in given, "the given one stays as it is"
    assert stored_config(given, []) == {"torch_dtype": "float32", "d_model": 8}
