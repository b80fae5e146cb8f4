"""`chorus plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from chorus.cache import limit_bytes
from chorus.cli.flags import json_flag
from chorus.cli.options import idle_note, merge_options, options_of
from chorus.cli.output import as_json, note, table
from chorus.errors import RecipeError
from chorus.sizes import size
from chorus.tables import Table

if TYPE_CHECKING:
    from chorus.merge.method import Value
    from chorus.merge.planning.describe import PlanFacts


@click.command("plan")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--tensors", is_flag=True, help="One line a tensor, layers not drawn together.")
@json_flag("Print the plan as JSON, every tensor by itself.")
@merge_options
def command(recipe: str, tensors: bool, json_: bool, **flags: Any) -> None:
    """Show every output tensor of RECIPE with its method, parameters and role, sizes, memory, and every problem.

    No weight is read; for models on the hub only headers, tokenizers and settings are fetched. Exit code 2 where the
    merge could not run.

    \b
    chorus plan recipe.yml
    """
    from chorus.merge.planning.describe import describe
    from chorus.merge.planning.planner import plan

    try:
        planned = plan(recipe, options_of(flags), weights=False)  # headers alone, of models on the hub too
    except RecipeError as error:
        if not json_:
            raise
        # problems are a plan's result too: whoever parses stdout finds JSON there, and the exit code says the rest
        as_json({"problems": error.problems})
        raise click.exceptions.Exit(error.exit_code) from None
    facts = describe(planned)
    if json_:
        as_json(facts)
        return
    _print(facts, tensors)
    note_text = idle_note(flags)
    if note_text:
        note(note_text)


def _print(facts: PlanFacts, every_tensor: bool) -> None:
    from chorus.checkpoints.beside import told
    from chorus.merge.planning.describe import draw_together

    rows = [
        [
            m["model"],
            m["part"],
            m["architecture"],
            m["dtype"],
            str(m["tensors"]),
            size(m["bytes"]),
            m["license"] or "not stated",
        ]
        for m in facts["models"]
    ]
    table(Table("Models", ["model", "part", "architecture", "dtype", "tensors", "size", "license"], rows))
    for output in facts["outputs"]:
        click.echo()
        shown = [(t, 1) for t in output["tensors"]] if every_tensor else draw_together(output["tensors"])
        rows = []
        for tensor, count in shown:
            role = tensor["role"]
            treatment = tensor["method"] + (f" ({tensor['reason']})" if tensor["reason"] else "")
            treatment += f" on {tensor['treatment']}" if tensor["treatment"] else ""
            # buffers such as num_batches_tracked have no dimension
            shape = "x".join(map(str, tensor["shape"])) or "scalar"
            rows.append(
                [
                    tensor["name"] + (f"  ({count})" if count > 1 else ""),
                    f"{shape} {tensor['dtype']}",
                    f"{role['component']} {role['kind']}",
                    treatment,
                    _parameters(tensor["method"], tensor["parameters"]),
                ]
            )
        name = f"Output {output['name']}" if output["name"] else "Output"
        table(Table(f"{name}: {output['method']}", ["tensor", "shape", "role", "method", "parameters"], rows))
    click.echo()
    click.echo(
        f"reads {size(facts['bytes_to_read'])}, writes {size(facts['bytes_to_write'])} in "
        f"{sum(len(o['files']) for o in facts['outputs'])} file(s); {facts['jobs']} thread(s), "
        # torch and the libraries below it take a few hundred megabytes of their own
        f"working memory {size(facts['memory_bytes'])} besides the runtime's own"
    )
    if facts["cache_bytes"]:
        click.echo(f"cache: up to {size(facts['cache_bytes'])} of spectra and bases for the next run (--no-cache)")
        # a run that needs more than the whole cache makes no room in it, so the next one finds a part
        if facts["cache_bytes"] > limit_bytes():
            click.echo(
                f"warning: the cache is limited to {size(limit_bytes())} (CHORUS_CACHE_LIMIT), so a part is kept"
            )
    left = told(facts["not_carried"])
    if left:
        click.echo(left)
    for line in facts["warnings"]:
        click.echo(f"warning: {line}")
    for line in facts["generation_differences"]:
        click.echo(f"generation: {line}")


def _parameters(method: str, parameters: Mapping[str, Value | list[Value]]) -> str:
    """The parameters that are not at their defaults."""
    from chorus.merge.method import METHODS

    defaults = {p.name: p.default for p in METHODS.get(method).parameters.values()} if method in METHODS else {}
    parts = []
    for name, value in parameters.items():
        values = value if isinstance(value, list) else [value]
        if any(v != defaults.get(name) for v in values):
            # a list is one value a layer or model; told once where they are alike
            same = all(v == values[0] for v in values)
            parts.append(f"{name} {_short(values[0])}" if same else f"{name} [{', '.join(map(_short, values))}]")
    return ", ".join(parts)


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value).lower()
