"""Methods explained, all from their decorators and docstrings: for the terminal, as pages, as data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from chorus.merge.method import Method, Parameter

BASES = {
    "required": "needs a base model",
    "optional": "with a base model it works on deltas, without one on weights",
    "input": "a base model is one input among the others",
    "first": "a base model is one input among the others, and comes before them",
}


def facts(method: Method) -> dict[str, Any]:
    """A method in JSON's types; the parameters are its schema."""
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "space": method.space,
        "base": method.base,
        "models": list(method.models),
        "symmetric": method.symmetric,
        "random": method.random,
        "when": method.when,
        "description": method.doc,
        "recipe": method.recipe,
        "parameters": [_schema(p) for p in method.parameters.values()],
    }


def _schema(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "name": parameter.name,
        "type": parameter.type.__name__,
        "per_model": parameter.per_model,
        "required": parameter.required,
        "default": parameter.default,
        "description": parameter.doc,
    }
    if parameter.between:
        lowest = "exclusiveMinimum" if parameter.between.above else "minimum"
        schema[lowest], schema["maximum"] = parameter.between.low, parameter.between.high
    if parameter.choices:
        schema["choices"] = list(parameter.choices)
    return schema


def inputs_phrase(method: Method) -> str:
    """How many models, and what a base is to it."""
    low, high = method.models
    count = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
    besides = " besides the base" if method.base == "required" else ""
    return f"{count} model{'s' if count != '1' else ''}{besides}; {BASES[method.base]}"


def default_phrase(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def _range_phrase(parameter: Parameter) -> str:
    if parameter.between:
        return f"{parameter.type.__name__}, {parameter.between}"
    return " | ".join(parameter.choices) if parameter.choices else parameter.type.__name__


def text(method: Method) -> str:
    """What `chorus methods NAME` prints."""
    lines = [f"{method.name}: {method.summary}", ""]
    lines += [method.doc, "", f"When: {method.when}" if method.when else "", f"Paper: {method.paper}"]
    lines += [f"Inputs: {inputs_phrase(method)}", "", "Parameters:"]
    for p in method.parameters.values():
        scope = "per model" if p.per_model else "global"
        lines.append(f"  {p.name} ({_range_phrase(p)}; {scope}; default {default_phrase(p)})")
        lines += textwrap.wrap(p.doc, 100, initial_indent="      ", subsequent_indent="      ")
    if not method.parameters:
        lines.append("  none")
    lines += ["", "Recipe:", textwrap.indent(method.recipe, "  ")] if method.recipe else []
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).rstrip()


def page(method: Method) -> str:
    """A method's section of docs/methods.md."""
    lines = [f"## {method.name}", "", f"{method.summary[0].upper()}{method.summary[1:]}.", "", method.doc, ""]
    if method.when:
        lines += [f"**When:** {method.when}", ""]
    lines += [f"**Paper:** {method.paper}", "", f"**Inputs:** {inputs_phrase(method)}", ""]
    if method.parameters:
        lines += ["| parameter | type | scope | default | meaning |", "|---|---|---|---|---|"]
        for p in method.parameters.values():
            # a bar would end the table's cell
            kind = _range_phrase(p).replace("|", "\\|")
            lines.append(
                f"| `{p.name}` | {kind} | {'per model' if p.per_model else 'global'} | {default_phrase(p)} | {p.doc} |"
            )
        lines.append("")
    if method.recipe:
        lines += ["```yaml", method.recipe, "```", ""]
    return "\n".join(lines)


HEAD = """# Merge methods

Made by `chorus methods --markdown`; do not edit. Every parameter takes a number, a gradient over the layers, a
list with `filter` or a list with `role` ([recipes](recipes.md)). "Per model" parameters may stand under each model.

"""


def overview(methods: Iterable[Method], page_of: str = "") -> str:
    """A table of methods; their names lead to their sections of the page `page_of`."""
    rows = [f"| [{m.name}]({page_of}#{m.name}) | {m.summary} | {m.base} |" for m in methods]
    return "\n".join(["| method | what it does | base |", "|---|---|---|", *rows])


def pages(methods: Iterable[Method]) -> str:
    """docs/methods.md."""
    listed = list(methods)
    return HEAD + overview(listed) + "\n\n" + "\n".join(page(m) for m in listed).rstrip()
