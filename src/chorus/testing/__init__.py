"""The contracts that methods, kinds of models, tasks, runtimes and exports keep, as tests that their authors can run.

import pytest, chorus.testing

@pytest.mark.parametrize("check", chorus.testing.checks(), ids=lambda c: c.__name__)
def test_my_method(check):
    check("my_method")

def test_my_numbers():
    chorus.testing.check_golden("tests/my_method.json")

def test_my_kind_of_model():
    chorus.testing.check_kind("tests/tiny-model", "tests/manifest.csv")

def test_my_task():
    chorus.testing.check_task("my_task")

def test_my_runtime():
    chorus.testing.check_backend(my_backend, sounds)

def test_my_format_of_export():
    chorus.testing.check_exporter("my_format", "tests/tiny-model")
    chorus.testing.check_verifier("my_format", "tests/tiny.mine", "tests/tiny-model")
"""

from chorus.testing.exports import check_exporter, check_verifier
from chorus.testing.kinds import check_kind
from chorus.testing.merging import merge_deltas, merge_tensors
from chorus.testing.methods import (
    Case,
    agrees_with_itself,
    check_golden,
    checks,
    close,
    example_parameters,
    explains_itself,
    golden_tensor,
    ignores_order,
    is_precise,
    keeps_shapes,
    reads_bytes_as_tensors,
    refuses_nonfinite,
    refuses_nonsense,
    repeats_itself,
    scales,
    streams_as_in_memory,
    takes_factors,
)
from chorus.testing.runtimes import check_backend
from chorus.testing.tasks import check_task, task_checks

__all__ = [
    "Case",
    "agrees_with_itself",
    "check_backend",
    "check_exporter",
    "check_golden",
    "check_kind",
    "check_task",
    "check_verifier",
    "checks",
    "close",
    "example_parameters",
    "explains_itself",
    "golden_tensor",
    "ignores_order",
    "is_precise",
    "keeps_shapes",
    "merge_deltas",
    "merge_tensors",
    "reads_bytes_as_tensors",
    "refuses_nonfinite",
    "refuses_nonsense",
    "repeats_itself",
    "scales",
    "streams_as_in_memory",
    "takes_factors",
    "task_checks",
]
