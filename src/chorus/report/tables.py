"""A table as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Format = Literal["markdown", "csv", "latex"]
SPECIAL = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{",
           "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip


@dataclass
class Table:
    """Texts in rows; `title` says what is counted, `notes` what the marks mean; `best` are cells to be printed bold."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)

    def render(self, form: Format) -> str:
        """The table as a text that ends with a line break."""
        return {"markdown": _markdown, "csv": _csv, "latex": _latex}[form](self)


def _cells(table: Table, bold: tuple[str, str], escape: dict[str, str]) -> list[list[str]]:
    trans = str.maketrans(escape)
    return [
        [f"{bold[0]}{c.translate(trans)}{bold[1]}" if (i, j) in table.best else c.translate(trans)
         for j, c in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]  # fmt: skip


def _markdown(table: Table) -> str:
    rows = _cells(table, ("**", "**"), {"|": r"\|", "*": r"\*"})
    lines = [f"**{table.title}**", "", _bar(table.columns), _bar(["---", *["---:"] * (len(table.columns) - 1)])]
    lines += [_bar(row) for row in rows]
    lines += ["", *table.notes] if table.notes else []
    return "\n".join(lines) + "\n"


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return out.getvalue()


def _latex(table: Table) -> str:
    trans = str.maketrans(SPECIAL)
    rows = _cells(table, (r"\textbf{", "}"), SPECIAL)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{table.title.translate(trans)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule"]
    lines += [" & ".join(c.translate(trans) for c in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {note.translate(trans)}" for note in table.notes]
    lines += [r"\end{table}"]
    return "\n".join(lines) + "\n"
