"""`chorus gate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

from chorus.cli.flags import json_flag
from chorus.cli.output import as_json
from chorus.errors import UsageError
from chorus.files import printable


@click.command("gate")
@click.argument("result", metavar="RESULT")
@click.option("--against", metavar="RESULT", help="What it may not be worse than.")
@click.option("--max-wer", type=float, metavar="PERCENT", help="The highest word error rate.")
@click.option("--max-cer", type=float, metavar="PERCENT", help="The highest character error rate.")
@click.option(
    "--bound", "bounds", multiple=True, metavar="METRIC=VALUE",
    help="The least of a metric (accuracy=90) or, where less is better, the most (eer=5); may be repeated.",
)  # fmt: skip
@click.option("--max-regression", type=float, metavar="POINTS", help="The most that --against may be better by.")
@click.option("--max-domain-regression", type=float, metavar="POINTS", help="The same in the worst domain.")
@click.option("--metric", help="Of which metric regressions are, such as macro_f1.  [default: the task's first]")
@click.option("--max-failed", type=click.IntRange(0), default=0, help="Failed decodes.  [default: 0]")
@click.option("--significant", is_flag=True, help="--max-regression counts only where test and interval agree on it.")
@json_flag("Print the checks as JSON.")
@click.pass_context
def command(context: click.Context, /, result: str, json_: bool, **flags: Any) -> None:
    """Check an evaluation, for pipelines: exit code 0 where everything holds, 1 where something does not.

    \b
    chorus gate evaluations/merged --max-wer 12 --max-regression 0.5 --against evaluations/base
    chorus gate evaluations/keywords --bound accuracy=90 --bound recognised=99
    chorus gate evaluations/merged --against evaluations/kws --max-regression 2 --metric macro_f1
    """
    from chorus.evaluate.gate import as_dict, gate
    from chorus.evaluate.results import read_evaluation

    bounds = ("max_wer", "max_cer", "max_regression", "max_domain_regression")
    # without --max-failed, which has a default and so is always checked: alone it would let any rate pass
    flags["bounds"] = _bounds(flags["bounds"])
    if not flags["bounds"] and all(flags[name] is None for name in bounds):
        raise UsageError(
            "nothing to check", "give --max-wer, --max-cer, --bound METRIC=VALUE or --max-regression with --against"
        )
    for name in bounds:
        if flags[name] is not None and math.isnan(flags[name]):
            raise UsageError(f"--{name.replace('_', '-')} nan: no bound", "give a number")
    regressions = flags["max_regression"] is not None or flags["max_domain_regression"] is not None
    # either without the other would check nothing and pass: a pipeline must not be green by a forgotten flag
    if regressions != bool(flags["against"]):
        raise UsageError("--against and a regression's bound go together", "--against RESULT --max-regression 0.5")
    if flags["metric"] is not None and not regressions:
        raise UsageError(
            "--metric is of regressions, and none is bounded", "--bound METRIC=VALUE bounds a metric itself"
        )
    against = flags.pop("against")
    checks = gate(read_evaluation(result), against=read_evaluation(against) if against else None, **flags)
    if json_:
        as_json(as_dict(checks))
    else:
        click.echo(printable("\n".join(map(str, checks))))
    if not all(check.ok for check in checks):
        # not an error of the command: 1 is for conditions that do not hold, 2 and more for what went wrong
        context.exit(1)


def _bounds(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not name or not equals or math.isnan(limit):
            raise UsageError(f"--bound {text}: no bound", "write METRIC=VALUE, as in accuracy=90")
        # of two the laxer one would say nothing, and which was meant nobody knows
        if name in found:
            raise UsageError(f"--bound {name} stands twice", "give each metric one bound")
        found[name] = limit
    return found
