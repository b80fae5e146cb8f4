"""A table of texts, and what it is written as: text, Markdown, CSV, LaTeX or HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chorus.files import printable
from chorus.lazy import lazy

if TYPE_CHECKING:
    import rich.console as rich_console
    import rich.table as rich_table
else:
    rich_console, rich_table = lazy("rich.console"), lazy("rich.table")

Format = Literal["text", "markdown", "csv", "latex", "html"]
Row = Sequence[str]
SPECIAL = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{",
           "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip
WIDE = 10_000  # letters of a line that is not to be folded


@dataclass(frozen=True)
class Table:
    """Texts in rows; `title` says what is counted, `notes` what the marks mean; `best` are cells (row, column) in bold.

    >>> print(Table("WER", ["system", "digits"], [["base", "9.5"], ["ties", "4.2"]], best={(1, 1)}).render("markdown"))
    **WER**
    <BLANKLINE>
    | system | digits |
    | --- | ---: |
    | base | 9.5 |
    | ties | **4.2** |
    <BLANKLINE>
    """

    title: str
    columns: Row
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    best: frozenset[tuple[int, int]] | set[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title  # ours to get right, not a reader's

    def render(self, form: Format) -> str:
        """The table as a text that ends with a line break."""
        return RENDERERS[form](self)


def as_text(table: Table, *, terminal: bool = False) -> str:
    """Columns side by side: whole lines, or folded to the width of a terminal."""
    made = rich_table.Table(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in table.columns:
        made.add_column(column, overflow="fold", no_wrap=not terminal)
    for row in table.rows:
        made.add_row(*(_literal(cell) for cell in row))
    out = io.StringIO()  # rich would fold to the width of whatever it finds
    width = None if terminal else WIDE
    rich_console.Console(width=width, highlight=False, file=out, force_terminal=terminal).print(made)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]  # rich pads to the width
    return "\n".join([*lines, *(["", *table.notes] if table.notes else [])]) + "\n"


def _literal(text: str) -> str:
    """Square brackets are text here, not rich's markup."""
    return printable(text).replace("[", r"\[")  # intervals are written in them


def as_markdown(table: Table) -> str:
    """A pipe table under its title, columns of numbers to the right."""
    rows = _cells(table, ("**", "**"), {"|": r"\|", "*": r"\*"})
    lines = [f"**{table.title}**", ""] if table.title else []
    lines += [_piped(table.columns), _piped(["---", *["---:"] * (len(table.columns) - 1)])]
    lines += [_piped(row) for row in rows]
    lines += ["", *table.notes] if table.notes else []
    return "\n".join(lines) + "\n"


def _piped(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def as_csv(table: Table) -> str:
    """Columns and rows alone."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return out.getvalue()


def as_latex(table: Table) -> str:
    """A `table` with booktabs' rules."""
    # in one pass: replaced one after the other, the braces of \textbackslash{} would be escaped again
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


def as_html(table: Table, link: Callable[[Row], str | None] = lambda row: None) -> str:
    """A `<table>` and its notes, the title left to the page; `link` gives the anchor that a row's cells lead to."""
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in table.columns)
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for i, row in enumerate(table.rows):
        anchor = link(row)
        cells = []
        for j, cell in enumerate(row):
            text = html.escape(cell)
            text = f'<a href="#{anchor}">{text}</a>' if anchor else text
            cells.append(f'<td class="best">{text}</td>' if (i, j) in table.best else f"<td>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>", *(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)]
    return "\n".join(lines) + "\n"


def _cells(table: Table, bold: tuple[str, str], escape: dict[str, str]) -> list[list[str]]:
    trans = str.maketrans(escape)
    return [
        [f"{bold[0]}{c.translate(trans)}{bold[1]}" if (i, j) in table.best else c.translate(trans)
         for j, c in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]  # fmt: skip


RENDERERS: dict[Format, Callable[[Table], str]] = {
    "text": as_text, "markdown": as_markdown, "csv": as_csv, "latex": as_latex, "html": as_html,
}  # fmt: skip
