"""Patterns of adapters' configs: the same answers as `re` gives PEFT, and an answer in time to every pattern."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.checkpoints.patterns import Patterns, matcher

NAMES = (
    "model.decoder.layers.0.encoder_attn.k_proj",
    "model.layers.11.self_attn.q_proj",
    "model.layers.1.self_attn.v_proj",
    "layers.1.mlp.gate-up",
    "q_proj",
    "",
)
SANE = (
    "q_proj", "layers.1.self_attn.v_proj", "^model.decoder.layers.0.encoder_attn.k_proj", r"layers\.\d+\..*_proj",
    r".*\.(q|v)_proj", "(q|k|v)_proj", r"model\.layers\.(0|1[0-9]?|[2-9])\.self_attn\.[qkv]_proj", "self_attn.*",
    r"^.*layers\.(?:1|11)\.(self_attn|mlp)\..+$", "[^q]_proj", r".*layers.{1,2}1.*", "layers.1{2}.*", r"\w+",
    r".*\bq_proj", "(a|b)*q_proj", "mlp.gate-up", ".*?q_proj", "x*", "(layers.)?1.self_attn.v_proj", r"[\w.]+",
    "[]a]*q_proj", "a{,2}q_proj", r"(?!.*k_proj).*_proj", r".*(?=proj)\w+",
)  # fmt: skip
HOSTILE = (
    "(.*)*x", "(a+)+$", "(a|a)*b", "(.*.*.*.*.*)*x", "((((.?)*)*)*)*x", "(((.|..){99}){99}){99}x", "(a?){1000}a{1000}",
    ".*" * 400 + "x", "(x+x+)+y", "((.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*))*[^a]x",
)  # fmt: skip


@pytest.mark.parametrize("pattern", SANE)
def test_sane_patterns_match_as_peft_matches_them(pattern):
    matches = matcher(pattern)
    found = {name: matches(name) for name in NAMES}
    assert found == {name: re.match(rf"(.*\.)?({pattern})$", name) is not None for name in NAMES}


@st.composite
def patterns(draw, depth=2):
    letters = st.sampled_from(["a", "b", r"\.", ".", "[ab]", "[^a]", r"\w", "_"])
    simple = letters if not depth else letters | patterns(depth - 1).map(lambda p: f"({p})")
    repeated = st.tuples(simple, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{,1}", "*?"])).map("".join)
    one = st.lists(repeated, min_size=1, max_size=3).map("".join)
    return "|".join(draw(st.lists(one, min_size=1, max_size=2)))


@given(patterns(), st.text("ab._", max_size=8))
def test_any_pattern_of_these_forms_matches_as_re_does(pattern, name):
    assert matcher(pattern)(name) == (re.match(rf"(.*\.)?({pattern})$", name) is not None)


@pytest.mark.parametrize("pattern", HOSTILE)
def test_no_pattern_keeps_the_reader_busy(pattern):
    name = "model.layers.11.self_attn." + "a" * 60 + "-"
    started = time.process_time()
    try:
        assert not matcher(pattern)(name)
    except ValueError as error:
        assert "takes too long" in str(error)  # noqa: PT017
    assert time.process_time() - started < 2  # `re` would not end


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?<=a)b", "uses"), (r"(a)\1", "uses"), ("(?P<x>a)", "uses"), ("(?i)a", "uses"), ("(a", "not closed"),
        ("a)", "not opened"), ("*a", "nothing to repeat"), ("a**", "repeats a repetition"), ("[a", "not closed"),
        ("a{3,1}", "repeats"), ("\\", "uses"), ("[z-a]", "not a regular expression"), ("(" * 30 + ")" * 30, "nested"),
        ("a" * 2000, "2,000 characters"),
    ],
)  # fmt: skip
def test_what_is_no_pattern_here_is_said(pattern, message):
    with pytest.raises(ValueError, match=message):
        Patterns({pattern: 1})


def test_the_first_pattern_that_matches_counts():
    known = Patterns({"layers.1.q_proj": 3, ".*q_proj": 4, "v_proj": 5})
    assert [known.value(f"model.layers.{n}", 8) for n in ("1.q_proj", "2.q_proj", "1.v_proj", "1.k_proj")] == [
        3,
        4,
        5,
        8,
    ]
    with pytest.raises(ValueError, match="30,000 patterns"):
        Patterns(dict.fromkeys(map(str, range(30_000)), 1))
