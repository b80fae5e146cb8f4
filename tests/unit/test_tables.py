"""One table in every form: the same cells, what is special in a form escaped, marks and notes where a form has them."""

from __future__ import annotations

import csv
import io
import re
from typing import get_args

import pytest

from chorus.tables import RENDERERS, Format, Table, as_html, as_text

AWKWARD = Table("50 % & more", ["a_b", "c"], [["x|y", "1*"], ["{z}", "~^\\"], ["[bold]", "<b>"]], ["a note"], {(1, 0)})


def test_every_form_has_a_renderer() -> None:
    assert set(RENDERERS) == set(get_args(Format))
    assert len(RENDERERS) == 5


@pytest.mark.parametrize("form", RENDERERS)
def test_every_form_ends_with_one_line_break_and_holds_every_row(form: Format) -> None:
    table = Table("WER", ["system", "digits"], [["base", "9.5"], ["ties", "4.2"]])
    text = table.render(form)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for cell in ("system", "digits", "base", "9.5", "ties", "4.2"):
        assert cell in text
    assert text.index("9.5") < text.index("ties")


def test_markdown_escapes_its_marks_and_prints_the_best_bold() -> None:
    text = AWKWARD.render("markdown")
    assert r"| x\|y | 1\* |" in text
    assert "| **{z}** |" in text
    assert text.splitlines()[-1] == "a note"
    assert not Table("", ["a"], []).render("markdown").startswith("*")


def test_latex_escapes_its_marks_and_prints_the_best_bold() -> None:
    text = AWKWARD.render("latex")
    assert r"\caption{50 \% \& more}" in text
    assert r"a\_b & c \\" in text
    assert r"\textbf{\{z\}} & \textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert r"\footnotesize a note" in text


def test_csv_is_read_back_as_it_was() -> None:
    read = list(csv.reader(io.StringIO(AWKWARD.render("csv"))))
    assert read == [list(AWKWARD.columns), *map(list, AWKWARD.rows)]


def test_html_escapes_and_links_whole_rows() -> None:
    text = as_html(AWKWARD, link=lambda row: "there" if row[0] == "x|y" else None)
    assert text.count('<a href="#there">') == 2
    assert '<td class="best">{z}</td>' in text
    assert "<td>&lt;b&gt;</td>" in text
    assert '<p class="note">a note</p>' in text
    assert len(re.findall("<tr>", text)) == 4


def test_text_is_whole_lines_away_from_a_terminal() -> None:
    long = Table("t", ["name", "value"], [["n" * 300, "[/] [red]v"]], ["a note"])
    lines = as_text(long).splitlines()
    assert lines[2] == "n" * 300 + "  [/] [red]v"
    assert lines[-1] == "a note"
    assert not as_text(Table("", ["a"], [["b"]])).startswith("\n")


def test_text_is_folded_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = as_text(Table("t", ["name"], [["n" * 100]]), terminal=True)
    assert "\x1b[1m" in text
    assert max(text.count("n" * k) for k in (41,)) == 0


def test_a_row_of_another_length_is_our_fault() -> None:
    with pytest.raises(AssertionError, match="a title"):
        Table("a title", ["a", "b"], [["1"]])


def test_a_cell_cannot_steer_the_terminal():
    shown = Table("", ["a", "b"], [["\x1b[2Jx", "y\u202e"]]).render("text")
    assert "\\x1b[2Jx" in shown
    assert "\\u202e" in shown
    assert "\x1b" not in shown
