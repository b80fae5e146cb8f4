"""Which token each id stands for, read from every form of a tokenizer's files."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.checkpoints.vocabulary import RESERVED, Vocabulary, difference, same_files, vocabulary_of
from sounds import BASE

WORDS = {"a": 0, "b": 1, "ab": 2}
TEKKEN = {
    "config": {"default_num_special_tokens": 2},
    "vocab": [{"rank": 0, "token_bytes": "YQ==", "token_str": "a"}, {"rank": 1, "token_bytes": "Yg=="}],
    "special_tokens": [{"rank": 0, "token_str": "<s>"}, {"rank": 1, "token_str": "</s>"}],
}


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


def sentencepiece(pieces):
    """A model's protocol buffer: the pieces with a score and a type each, then the settings of its training."""
    entries = [field(1, field(1, p.encode()) + b"\x15\x00\x00\x80\x3f" + b"\x18\x01") for p in pieces]
    return b"".join(entries) + field(2, b"\x08\x01")


FORMS = {
    "tokenizer.json": json.dumps({"model": {"vocab": WORDS}, "added_tokens": [{"id": 3, "content": "<|end|>"}]}),
    "vocab.json": json.dumps(WORDS),
    "vocab.txt": "a\nb\nab\n",
    "tekken.json": json.dumps(TEKKEN),
    "qwen.tiktoken": "".join(f"{base64.b64encode(w.encode()).decode()} {i}\n" for w, i in WORDS.items()),
    "tokenizer.model": sentencepiece(WORDS),
    "spiece.model": sentencepiece(WORDS),
}


def files(place, **contents):
    for name, content in contents.items():
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {name: place / name for name in contents}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_its_tokens(tmp_path, name):
    found = vocabulary_of(files(tmp_path, **{name: FORMS[name]}))
    expected = {0: "a", 1: "b", 2: "ab"}
    if name == "tokenizer.json":
        expected[3] = "<|end|>"
    if name == "tekken.json":
        expected = {0: "<s>", 1: "</s>", 2: "YQ==", 3: "Yg=="}
    assert found.tokens == expected
    assert found.ids == {token: i for i, token in expected.items()}


def test_a_list_of_pieces_is_numbered_and_old_files_name_what_was_added(tmp_path):
    unigram = json.dumps({"model": {"vocab": [["<unk>", 0.0], ["a", -1.5]]}})
    assert vocabulary_of(files(tmp_path, **{"tokenizer.json": unigram})).tokens == {0: "<unk>", 1: "a"}
    old = files(tmp_path, **{"vocab.json": FORMS["vocab.json"], "added_tokens.json": '{"<|end|>": 3}'})
    assert vocabulary_of(old).tokens[3] == "<|end|>"


def test_lines_end_at_line_feeds_alone(tmp_path):
    """BERT's vocabularies hold every letter there is, those too at which Python breaks lines."""
    from transformers import BertTokenizer

    words = ["[UNK]", "a", "\x85", "\u2028", "b", "\x1c"]
    found = vocabulary_of(files(tmp_path, **{"vocab.txt": "".join(f"{word}\n" for word in words)}))
    assert found.tokens == dict(enumerate(words))
    assert BertTokenizer(str(tmp_path / "vocab.txt")).convert_tokens_to_ids("b") == found.ids["b"]


def test_it_is_what_transformers_reads():
    from transformers import AutoTokenizer

    found = vocabulary_of({path.name: path for path in BASE.iterdir()})
    theirs = AutoTokenizer.from_pretrained(BASE).get_vocab()
    assert len(found.tokens) == 51865
    assert found.ids == theirs


@pytest.mark.parametrize("name", [name for name in FORMS if name != "vocab.txt"])
@given(st.data())
def test_what_is_damaged_is_told_or_gives_nothing(tmp_path_factory, name, data):
    from chorus.errors import CheckpointError

    content = FORMS[name] if isinstance(FORMS[name], bytes) else FORMS[name].encode()
    at = data.draw(st.integers(0, len(content) - 1))
    changed = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
    place = files(tmp_path_factory.mktemp("v"), **{name: changed[: data.draw(st.integers(0, len(content)))]})
    try:
        found = vocabulary_of(place)
    except CheckpointError:
        return
    assert found is None or all(isinstance(i, int) and isinstance(t, str) for i, t in found.tokens.items())


@pytest.mark.parametrize(
    "value", [[], None, 1, {"vocab": 3}, {"vocab": [3, [], ["a"]]}, {"vocab": {"a": "x", "b": None}}]
)
def test_values_of_other_types_give_nothing(tmp_path, value):
    found = vocabulary_of(files(tmp_path, **{"tokenizer.json": json.dumps({"model": value, "added_tokens": value})}))
    assert found is None or found.tokens == {2: "a"}
    tekken = json.dumps({"config": value, "vocab": value, "special_tokens": value})
    assert vocabulary_of(files(tmp_path, **{"tekken.json": tekken})) is None


def test_ids_are_moved_renamed_or_lacking():
    mine = Vocabulary("pieces", {0: "a", 1: "b", 2: "c", 5: "e"})
    theirs = Vocabulary("pieces", {0: "b", 1: "a", 2: "C", 3: "d", 4: "never", 5: "e", 9: "past"})
    found = difference(mine, theirs, 9)
    assert found.moved == [(0, "a", "b"), (1, "b", "a")]
    assert found.renamed == [(2, "c", "C")]
    assert found.lacking == ["d", "never"]
    assert difference(mine, theirs, 1).moved == [(0, "a", "b")]
    nothing = difference(mine, Vocabulary("tekken", theirs.tokens), 9)
    assert nothing.moved + nothing.renamed + nothing.lacking == []


def test_reserved_rows_may_be_numbered_anew():
    """Llama 3 and 3.1: two reserved tokens got a use, the others moved up."""
    name = "<|reserved_special_token_{}|>".format
    three = Vocabulary("pieces", {0: "a", **{i: name(i - 1) for i in range(1, 6)}})
    newer = Vocabulary(
        "pieces", {0: "a", 1: "<|finetune_right_pad_id|>", 2: "<|eom_id|>", **{i: name(i - 3) for i in (3, 4, 5)}}
    )
    found = difference(three, newer, 6)
    assert found.moved == []
    assert len(found.renamed) == 5
    for text in ("<unused7>", "[control_8]", "<|placeholder1|>", "<extra_id_3>", "<|reserved_0|>"):
        assert RESERVED.search(text)
    assert not RESERVED.search("<|im_end|>")
    assert not RESERVED.search("extra")


def test_equal_files_are_not_parsed(tmp_path):
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    one, two = (files(place, **{"vocab.json": FORMS["vocab.json"]}) for place in places[:2])
    assert same_files(one, two)
    (places[1] / "added_tokens.json").write_text("{}")
    assert not same_files(one, two | {"added_tokens.json": places[1] / "added_tokens.json"})
    assert not same_files(one, files(places[2], **{"vocab.json": '{"a": 1}'}))
    assert not same_files(one, {})
    assert same_files({}, {})


def test_the_rows_of_ctc_letters_are_compared_too(tmp_path):
    """A fine-tune's own vocabulary of equal size: letters have changed places."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    import chorus
    from chorus.errors import PlanError

    config = Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,), conv_stride=(5,), conv_kernel=(5,), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    for name, letters in (("a", "abcdefgh"), ("b", "abcdefhg")):
        Wav2Vec2ForCTC(config).save_pretrained(tmp_path / name)
        (tmp_path / name / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    with pytest.raises(PlanError, match="2 token ids of b mean other tokens"):
        chorus.plan({"merge_method": "linear", "models": models})
    kept = {"exclude": [{"component": "lm_head"}], "base_model": str(tmp_path / "a"), "merge_method": "linear"}
    plan = chorus.plan({"models": models, **kept})  # the head is the base's, and so are its letters
    assert any("2 token ids of b mean other tokens" in w for w in plan.warnings)
