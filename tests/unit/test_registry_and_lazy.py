"""Things by name, modules on demand, sizes and suggestions: the smallest parts, by their edges."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus import registry as module
from chorus.errors import (
    CheckpointError,
    ChorusError,
    DataError,
    MissingExtraError,
    OutputError,
    PlanError,
    RecipeError,
    UsageError,
    nearest,
)
from chorus.lazy import lazy, make_callable
from chorus.registry import Registry
from chorus.sizes import parse_size

# ---- the registry ----


def point(name, load):
    return SimpleNamespace(name=name, load=load)


def test_its_own_are_loaded_once_and_only_when_asked(monkeypatch):
    loads = []
    made = Registry("thing", "group", lambda: loads.append("own"))
    made.add("a", 1)
    assert loads == []
    assert made.get("a") == 1
    assert "a" in made
    assert len(made) == 1
    assert loads == ["own"]


def test_others_come_from_entry_points_in_order(monkeypatch):
    made = Registry("thing", "my.group", lambda: made.add("own", 0))
    groups, order = [], []

    def points(group):
        groups.append(group)
        return [point("z", lambda: (order.append("z"), made.add("z", 26))), point("b", lambda: order.append("b"))]

    monkeypatch.setattr(module, "entry_points", points)
    assert made.names() == ["own", "z"]
    assert (groups, order) == (["my.group"], ["b", "z"])
    assert list(made) == [0, 26]


def test_two_of_one_name_are_refused():
    things = Registry("thing", "g", lambda: None)
    things.add("own", 0)
    with pytest.raises(UsageError, match='thing "own" is registered twice'):
        things.add("own", 1)


def test_what_is_unknown_names_the_nearest_or_all():
    made = Registry("thing", "g", lambda: None)
    for name in ("alpha", "beta"):
        made.add(name, 1)
    for asked, told in (("alhpa", 'did you mean "alpha"'), ("zzz", "known: alpha, beta")):
        with pytest.raises(UsageError, match=told):
            made.get(asked)
    assert "zzz" not in made


# ---- lazy modules ----


def test_a_module_is_imported_when_something_is_taken_from_it():
    code = (
        "import sys; from chorus.lazy import lazy; m = lazy('sqlite3')\n"
        "before = 'sqlite3' in sys.modules; hasattr(m, '__path__'); repr(m); still = 'sqlite3' in sys.modules\n"
        "m.connect; print(before, still, 'sqlite3' in sys.modules, m.connect is sys.modules['sqlite3'].connect)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True"]


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError):
        _ = lazy("math").no_such_function
    with pytest.raises(ModuleNotFoundError):
        _ = lazy("no_such_module").anything


def test_submodules_are_taken_as_whole_names():
    assert lazy("os.path").join("a", "b") == "a/b"


def test_a_package_may_be_called_as_its_function(monkeypatch):
    import types

    package = types.ModuleType("made_up")
    package.__doc__ = "What it is."
    monkeypatch.setitem(sys.modules, "made_up", package)
    make_callable("made_up", "math", "pow")
    assert package(2, 3) == 8
    import inspect
    import math

    assert inspect.signature(package) == inspect.signature(math.pow)
    assert package.__doc__ == "What it is."


def test_the_public_functions_stay_callable_once_their_packages_are_imported():
    import chorus.evaluate
    import chorus.merge

    for function in (chorus.merge, chorus.evaluate):
        assert callable(function)
    assert set(chorus.__all__) <= set(dir(chorus))


# ---- sizes ----


@given(st.integers(1, 999), st.sampled_from(["k", "M", "G", "T"]), st.sampled_from(["", "B", "iB", "b"]), st.booleans())
def test_sizes_are_read_in_every_spelling(number, unit, suffix, spaced):
    step = 1024 if suffix == "iB" else 1000
    text = f"{number}{' ' if spaced else ''}{unit}{suffix}"
    assert parse_size(text) == number * step ** (1 + "kMGT".index(unit))
    assert parse_size(f" {text.lower()} ") == parse_size(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("12B", 12 * 10**9), ("7BB", 7), ("1.5GiB", 3 * 2**29), ("1KB", 1000)]
)
def test_sizes_at_the_edges(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 000", "1e9", "5PB", "5 GB 3", "half"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is not a size; write 500MB, 5GB or 1GiB"):
        parse_size(text)


# ---- errors ----


def test_every_error_has_its_code():
    codes = {ChorusError: 4, UsageError: 2, CheckpointError: 4, DataError: 4, OutputError: 4}
    for kind, code in codes.items():
        error = kind("what", "what to do")
        assert (error.exit_code, str(error)) == (code, "what\n  hint: what to do")
        assert isinstance(error, ChorusError)
    assert MissingExtraError("audio", "this").exit_code == 3
    assert str(ChorusError("what")) == "what"


@pytest.mark.parametrize("kind", [RecipeError, PlanError])
def test_one_problem_stands_on_the_line_and_many_below_it(kind):
    assert str(kind(["a"], source="r.yml")) == "r.yml: a"
    assert str(kind(["a", "b"], "do this")) == "recipe: 2 problems\n  - a\n  - b\n  hint: do this"
    assert kind(["a", "b"]).problems == ["a", "b"]
    assert kind(["a"]).exit_code == 2


@given(st.lists(st.text("abcdefgh_", min_size=3, max_size=9), min_size=1, max_size=6, unique=True))
def test_a_known_name_is_its_own_nearest(known):
    for name in known:
        assert nearest(name, known) == f'; did you mean "{name}"?'
    assert nearest("0", []) == ""
    assert nearest("000000", iter(known)).startswith("; known: ")


def failing(error: BaseException):
    def load():
        raise error

    return load


@pytest.mark.parametrize("error", [RuntimeError("boom"), ImportError("no such"), SyntaxError("bad"), SystemExit(7)])
def test_a_package_that_fails_is_named_and_left_out(error, monkeypatch):
    things = Registry("thing", "my.group", lambda: things.add("own", 0))
    broken = SimpleNamespace(name="b", load=failing(error), dist=SimpleNamespace(name="their-package"), value="b")
    fine = SimpleNamespace(name="z", load=lambda: things.add("z", 26), dist=None, value="z")
    monkeypatch.setattr(module, "entry_points", lambda group: [broken, fine])
    with pytest.warns(UserWarning, match=r"their-package \(my.group: b\) is left out"):
        assert things.names() == ["own", "z"]
    with pytest.raises(UsageError, match="their-package is left out"):
        things.get("theirs")


def test_a_name_that_is_taken_costs_the_package_that_came_second(monkeypatch):
    things = Registry("thing", "my.group", lambda: things.add("own", 0))
    second = SimpleNamespace(name="b", load=lambda: things.add("own", 1), dist=SimpleNamespace(name="late"), value="b")
    monkeypatch.setattr(module, "entry_points", lambda group: [second])
    with pytest.warns(UserWarning, match=r'late .* "own" is registered twice'):
        assert things.get("own") == 0


def test_ctrl_c_while_a_package_is_imported_is_ctrl_c(monkeypatch):
    things = Registry("thing", "my.group", lambda: None)
    monkeypatch.setattr(module, "entry_points", lambda group: [point("b", failing(KeyboardInterrupt()))])
    with pytest.raises(KeyboardInterrupt):
        things.names()
