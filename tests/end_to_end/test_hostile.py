"""Commands on hostile and damaged inputs, by a seed: a clear answer each time, in seconds and little memory.

`benchmarks/hostile.py` is the longer run; `Case` tells what is right.
"""

from __future__ import annotations

import sys

import pytest

from hostile import KINDS, World, cases, outcome

EACH = 10  # cases of a kind
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, devices and /proc")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def test_there_are_a_few_hundred_cases():
    assert len(KINDS) * EACH >= 200


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_clear_or_the_result_is_right(world, tmp_path, kind):
    outcomes = [outcome(case, place) for case, place in cases(world, tmp_path, EACH, 1, [kind])]
    assert len(outcomes) == EACH
    wrong = [o for o in outcomes if o.verdict not in ("clear", "right")]
    told = [f"{o.verdict}: {o.case.name} ({o.code}, {o.seconds:.1f} s)\n{o.told[:800]}" for o in wrong]
    assert not wrong, "\n".join(told)


def test_what_is_wrong_is_seen(world, tmp_path):
    """The judge itself: a success where there should be none, and a result that is another model's."""
    case, place = next(cases(world, tmp_path, 1, 1, ["side files"]))
    assert outcome(case, place).verdict == "right"
    case.sound, case.arguments[3] = world.tuned, str(case.output) + "-2"
    case.output = case.output.with_name("out-2")
    assert outcome(case, place).verdict == "silent"
    case.refused, case.sound, case.arguments = True, None, ["methods"]
    assert outcome(case, place).verdict == "silent"
    case.arguments = ["merge", "no-such-recipe.yml", "-o", "x"]
    assert outcome(case, place).verdict == "clear"
