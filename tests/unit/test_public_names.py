"""The public names: listed once, loaded when used, each typed for a user's checker."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.resources import files
from pathlib import Path

import pytest

import chorus

USER = Path(__file__).parents[1] / "typed_user.py"


def test_every_name_is_there():
    names = chorus.__all__
    assert len(names) == len(set(names)) == 53
    for name in names:
        assert getattr(chorus, name) is not None
    assert dir(chorus) == sorted(names)
    assert all(callable(getattr(chorus, name)) for name in ("merge", "train", "evaluate", "experiment", "plan"))


def test_a_star_takes_them_all():
    taken: dict[str, object] = {}
    exec("from chorus import *", taken)
    assert {name for name in taken if name != "__builtins__"} == set(chorus.__all__)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = chorus.no_such_name
    assert not hasattr(chorus, "_no_such_name")


def test_they_come_from_where_the_list_says():
    """What is listed is what a type checker reads: a name that only one of the two knows would show here."""
    for name, home in chorus._homes().items():
        found = getattr(chorus, name)
        if not isinstance(found, types.ModuleType):  # chorus.merge and the like: packages that can be called
            assert found is getattr(sys.modules[home], name)


def test_importing_chorus_reads_no_list():
    code = "import chorus, sys; print(len(chorus._KNOWN), 'ast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "0"


def test_the_package_is_typed_for_its_users():
    assert files("chorus").joinpath("py.typed").is_file()
    text = USER.read_text(encoding="utf-8")
    assert [name for name in chorus.__all__ if f"chorus.{name}" not in text] == []
