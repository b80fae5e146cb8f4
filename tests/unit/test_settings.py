"""Settings files: read safely, checked strictly, every problem in the words of the file."""

from __future__ import annotations

import pytest
from pydantic import Field

from chorus.errors import RecipeError
from chorus.settings import Strict, dotted, keys_at, leaves, read_document, spelled, validated


class Part(Strict):
    where: str
    share: float = Field(default=1.0, gt=0)


class Whole(Strict):
    parts: list[Part]
    named: dict[str, Part] = Field(default_factory=dict)
    part: Part | None = None
    lambda_: float = Field(default=1.0, alias="lambda")


def problems(document):
    with pytest.raises(RecipeError) as caught:
        validated(Whole, document, source="whole.yml", hint="see the manual")
    assert str(caught.value).startswith("whole.yml: ")
    assert caught.value.hint == "see the manual"
    return caught.value.problems


def test_gives_the_settings():
    assert validated(Whole, {"parts": [{"where": "a"}], "lambda": 2}, source="x").lambda_ == 2.0


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"parts": [], "prts": 1}, 'prts: unknown key; did you mean "parts"?'),
        ({"parts": [{"where": "a", "shar": 1}]}, 'parts[0].shar: unknown key; did you mean "share"?'),
        ({"parts": [], "named": {"x": {"where": "a", "wher": 1}}}, 'named.x.wher: unknown key; did you mean "where"?'),
        ({"parts": [], "part": {"where": "a", "zzz": 1}}, "part.zzz: unknown key; known: share, where"),
        ({"parts": [], "lambda_": 1}, 'lambda_: unknown key; did you mean "lambda"?'),
        ({"parts": [{}]}, "parts[0].where: missing"),
        ({"parts": [{"where": "a", "share": 0}]}, "parts[0].share: input should be greater than 0"),
    ],
)
def test_a_problem_says_where_and_what(document, problem):
    assert problems(document) == [problem]


def test_all_problems_are_told_at_once():
    assert len(problems({"parts": [{}, {"share": "much"}], "more": 1})) == 4


def test_of_very_many_problems_a_few_are_told_and_the_others_counted():
    with pytest.raises(RecipeError) as caught:
        validated(Whole, {"parts": [], **{f"x{i}": 1 for i in range(5000)}}, source="a.yml")
    assert len(caught.value.problems) == 5000
    assert str(caught.value).startswith("a.yml: 5,000 problems\n  - x0: unknown key")
    assert str(caught.value).endswith("  - and 4,980 more")


def test_places_are_written_as_in_the_file():
    assert dotted(("data", "train", 0, "where")) == "data.train[0].where"
    assert dotted(("base", "str")) == "base"  # pydantic's mark of an alternative


def test_keys_by_place():
    assert keys_at(Whole, ()) == {"parts", "named", "part", "lambda"}
    assert keys_at(Whole, ("parts", 0)) == keys_at(Whole, ("named", "any")) == {"where", "share"}
    assert list(leaves(Whole)) == ["parts", "named", "part.where", "part.share", "lambda"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2\n", "'a' stands twice"),
        ("- 1\n", "one map of settings"),
        ("a: 1\n---\nb: 2\n", "one map of settings"),
        ("a: [1\n", "not readable as YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("a: " + "[" * 60 + "]" * 60, "too deep"),
        ("x: &x [1]\ny: [" + ", ".join(["*x"] * 1100) + "]\n", "too much aliased"),
    ],
)
def test_documents_that_are_refused(tmp_path, text, told):
    path = tmp_path / "settings.yml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=told):
        read_document(path)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        read_document(tmp_path / "missing.yml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        read_document(tmp_path / "binary")


def test_a_map_is_taken_as_it_is():
    assert read_document({"a": 1})[:2] == ({"a": 1}, "settings")


def test_american_keys_are_taken_and_kept_in_one_spelling(tmp_path):
    assert spelled({"dev": {"normalizer": "marks", "x": [1]}}) == {"dev": {"normaliser": "marks", "x": [1]}}
    (tmp_path / "a.yml").write_text("normalizer: raw\n")
    assert read_document(tmp_path / "a.yml")[0] == {"normaliser": "raw"}
    for twice in ({"normalizer": 1, "normaliser": 2}, {"normaliser": 1, "normalizer": 2}):
        with pytest.raises(RecipeError, match="one key, given twice"):
            spelled(twice)
