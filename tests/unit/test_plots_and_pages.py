"""Pictures and the page that holds them: what is drawn, that it is drawn alike twice, and that names stay text."""

from __future__ import annotations

import base64
import builtins
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chorus.errors import MissingExtraError, OutputError
from chorus.evaluate.bootstrap import Interval
from chorus.evaluate.comparison import Cell, Comparison, Line
from chorus.report import plots
from chorus.report.compared import axis_of, compared_plots, swept
from chorus.report.html import Command, Page, Picture, anchor_of, render
from chorus.report.plots import COLOURS, NAMES, Point, by_domain, curve, pareto, ranks, trade
from chorus.tables import Table

NAN = float("nan")
POINTS = [
    Point("base", "base", {"a": 40.0, "b": 60.0, "in-domain": 50.0, "out": 30.0}, {"a": (35.0, 45.0)}),
    Point("a", "specialist", {"a": 10.0, "b": 80.0, "in-domain": 45.0, "out": 70.0}),
    Point("ties", "merge", {"a": 20.0, "b": 25.0, "in-domain": 22.5, "out": 33.0}, {"a": (15.0, 150.0)}),
]


def texts_of(path):
    """The texts of an SVG, which are paths with the text in a comment."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


@pytest.fixture
def figures(monkeypatch):
    """The figures as they are saved, to be looked into."""
    seen, real = [], plots.save
    monkeypatch.setattr(plots, "save", lambda figure, stem: seen.append(figure) or real(figure, stem))
    return seen


# ---- files ----


def test_a_plot_is_two_files_that_open(tmp_path):
    png, svg = by_domain(POINTS, ["a", "b"], tmp_path / "folder" / "rates", what="WER")
    assert (png.name, svg.name) == ("rates.png", "rates.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_the_same_values_give_the_same_bytes_and_no_date(tmp_path):
    drawn = [by_domain(POINTS, ["a", "b"], tmp_path / name / "rates", what="WER") for name in ("one", "two")]
    assert [p.read_bytes() for p in drawn[0]] == [p.read_bytes() for p in drawn[1]]
    assert "dc:date" not in drawn[0][1].read_text()
    assert b"Software" not in drawn[0][0].read_bytes()


def test_a_name_with_a_dot_keeps_it(tmp_path):
    made = curve({"x": [(0, 1), (1, 2)]}, tmp_path / "ties-0.5", parameter="p", what="WER")
    assert [p.name for p in made] == ["ties-0.5.png", "ties-0.5.svg"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="rates"):
        by_domain(POINTS, ["a"], tmp_path / "file" / "rates", what="WER")


def test_without_the_extra_it_says_how_to_install_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"chorus-merge\[audio\]"):
        by_domain(POINTS, ["a"], tmp_path / "rates", what="WER")


# ---- what is drawn ----


def test_every_system_domain_and_unit_is_named(tmp_path):
    _, svg = by_domain(POINTS, ["a", "b"], tmp_path / "rates", what="error rate, percent")
    found = texts_of(svg)
    for name in ("base", "ties", "a", "b", "error rate, percent; bar: in-domain mean"):
        assert name in found, name


def test_rates_that_are_not_known_leave_a_gap(tmp_path, figures):
    points = [Point("base", "base", {"a": NAN, "b": 60.0}), Point("none", "", {"a": NAN, "b": NAN})]
    by_domain(points, ["a", "b"], tmp_path / "rates", what="WER")
    (axes,) = figures[0].axes
    assert axes.get_xlabel() == "WER; bar: mean"
    assert [bar.get_width() for bar in axes.patches] == [60.0, 0.0]


@pytest.mark.parametrize(("domains", "told"), [([""], []), (["a", ""], ["a", "(none)"]), (["_a"], ["_a"])])
def test_rows_without_a_domain_and_names_with_a_line_below_are_drawn(tmp_path, figures, domains, told):
    points = [Point("base", "base", dict.fromkeys(domains, 40.0)), Point("other", "", dict.fromkeys(domains, 60.0))]
    by_domain(points, domains, tmp_path / "rates", what="WER")
    assert [text.get_text() for legend in figures[0].legends for text in legend.get_texts()] == told
    assert len(figures[0].axes[0].lines) == 2 * len(domains)


def test_a_rate_far_beyond_the_others_stands_at_the_edge_with_its_number(tmp_path, figures):
    points = [*POINTS, Point("broken", "merge", {"a": 900.0, "b": 30.0, "in-domain": 465.0, "out": 1.0})]
    by_domain(points, ["a", "b"], tmp_path / "rates", what="WER")
    (axes,) = figures[0].axes
    edge = axes.get_xlim()[1]
    assert edge == pytest.approx(150 * 1.05), "the longest interval of the others stands whole"
    assert [t.get_text() for t in axes.texts] == ["900"]
    assert max(max(line.get_xdata()) for line in axes.lines) <= edge
    assert max(bar.get_width() for bar in axes.patches) <= edge


def test_an_interval_that_the_axis_cuts_goes_on(tmp_path, figures):
    points = [Point("a", "merge", {"x": 90.0}, {"x": (60.0, 320.0)}), Point("b", "merge", {"x": 20.0})]
    by_domain(points, ["x"], tmp_path / "rates", what="WER")
    (axes,) = figures[0].axes
    assert axes.get_xlim()[1] == pytest.approx(210.0)
    assert [line.get_marker() for line in axes.lines].count(">") == 1


@example([0.0, 127.0])  # whose interval alone lies far out
@given(st.lists(st.floats(0, 1000), max_size=12))
def test_the_axis_ends_behind_what_is_usual(values):
    edge = plots._edge([(v, NAN) for v in values])
    assert edge >= 1.0
    assert plots._edge([(v, 1.5 * v) for v in values]) >= edge
    assert all(v <= edge for v in values if v <= 120)
    if values and max(values) * 1.05 <= 200:
        assert all(v <= edge for v in values)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=9))
def test_nothing_beats_the_front_and_something_beats_or_equals_the_rest(points):
    front = pareto(points)
    assert front == sorted(front, key=lambda i: points[i])

    def beats(p, q):
        return p != q and p[0] <= q[0] and p[1] <= q[1]

    assert set(front) == {i for i, q in enumerate(points) if not any(beats(p, q) for p in points)}


def test_the_trade_draws_the_front_and_a_colour_a_role(tmp_path, figures):
    trade(POINTS, tmp_path / "trade", x="in-domain", y="out", x_name="in", y_name="out")
    (axes,) = figures[0].axes
    assert list(axes.lines[0].get_xdata()) == [22.5, 50.0]  # ties, then base; a is beaten by ties in both
    assert {t.get_text() for t in axes.texts} == {"base", "a", "ties"}
    assert {c.get_label() for c in axes.collections} == {NAMES[r] for r in ("base", "specialist", "merge")}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("in", "out")


def test_no_label_lies_on_another():
    right, left = (False, 0), (True, 0)
    assert plots.labels(["a"], [(1, 1)]) == [right]
    assert plots.labels("abcde", [(0, 0), (0, 0), (100, 100), (0.5, 0.5), (0, 0)]) == [
        right, left, right, (False, 1), (True, 1),
    ]  # fmt: skip
    long = [(27.3, 1), (24, 1), (47.3, 2)]  # the second's would reach the first's
    assert plots.labels(["nicolas", "task_arithmetic", "base"], long) == [right, left, right]
    assert plots.labels(["nicolas", "ties", "base"], long) == [right, right, right]


def test_a_curve_has_its_levels_and_bands(tmp_path, figures):
    lines = {"in-domain": [(0.2, 30.0), (0.5, 20.0)], "out": [(0.2, 31.0), (0.5, 35.0)]}
    bands = {"in-domain": [(28.0, 32.0), (18.0, 22.0)]}
    curve(lines, tmp_path / "c", parameter="density", what="WER", levels={"base": 50.0, "joint": 19.0}, bands=bands)
    (axes,) = figures[0].axes
    assert [line.get_label() for line in axes.lines] == ["in-domain", "out", "base", "joint"]
    assert len(axes.collections) == 1
    assert axes.lines[2].get_linestyle() != axes.lines[3].get_linestyle()


def test_the_spread_of_ranks_has_a_box_a_system(tmp_path, figures):
    ranks([("a", "specialist", [1.0, 2.0, 3.0]), ("ties", "merge", [4.0])], tmp_path / "r", what="effective rank")
    (axes,) = figures[0].axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ties", "a"]
    assert len(axes.patches) == 2
    assert axes.get_xlim()[0] == 0


def test_every_role_has_its_colour_and_its_name():
    assert set(COLOURS) == set(NAMES)
    assert len(set(COLOURS.values())) == len(COLOURS)


# ---- plots of a comparison ----


def line_of(label, role, rate, **parameters):
    averages = {"in-domain": rate, "out-of-domain": 2 * rate}
    intervals = {"a": Interval(rate - 1, rate + 1, "speaker", 9), "b": Interval(NAN, NAN, "speaker", 0)}
    return Line(label, role, "", parameters, {"a": rate, "b": NAN}, intervals, averages)


def comparison(*lines, groups=("in-domain", "out-of-domain"), **more):
    cells = [Cell("a", groups[0], 9, "speaker"), Cell("b", groups[-1], 9, "speaker")]
    given = {"base": "base", "joint": "", "condition": "clean", "normaliser": "basic", "by": "speaker", "clusters": 9}
    return Comparison(cells, list(lines), **{**given, **more})


def test_a_comparison_draws_what_it_has(tmp_path):
    lines = [line_of(f"ties-{d}", "merge", 30 - d, method="ties", density=d) for d in (0.5, 0.2, 0.8)]
    made = compared_plots(comparison(line_of("base", "base", 40.0), *lines), tmp_path)
    assert [p.name for p in made if p.suffix == ".svg"] == ["by-domain.svg", "trade.svg", "ties-density.svg"]
    assert "error rate, percent (normaliser basic); bar: in-domain mean" in texts_of(tmp_path / "by-domain.svg")
    assert "base, in-domain" in texts_of(tmp_path / "ties-density.svg")
    assert "density of ties" in texts_of(tmp_path / "ties-density.svg")


def test_without_a_rest_there_is_no_trade(tmp_path):
    made = compared_plots(comparison(line_of("base", "base", 40.0), groups=("in-domain", "in-domain")), tmp_path)
    assert {p.stem for p in made} == {"by-domain"}


def test_an_axis_says_percent_where_the_metric_is_a_rate():
    assert axis_of(comparison()) == "error rate, percent"
    assert axis_of(comparison(title="BLEU", best=100.0)) == "BLEU"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ([{"density": 0.2}, {"density": 0.8}, {"density": 0.5}], [0.2, 0.5, 0.8]),
        ([{"density": 0.2}, {"density": 0.8}], None),  # two places are no curve
        ([{"density": d, "lambda": 1} for d in (0.2, 0.8, 0.5)], [0.2, 0.5, 0.8]),
        ([{"density": 0.2, "lambda": 1}, {"density": 0.8, "lambda": 2}, {"density": 0.5, "lambda": 1}], None),
        ([{"density": 0.2}, {"density": "all"}, {"density": 0.5}], None),
        ([{"density": 0.2}, {}, {"density": 0.5}], None),
        ([{"density": 0.2}, {"density": 0.2}, {"density": 0.2}], None),
    ],
)
def test_a_parameter_is_drawn_where_it_alone_differs(settings, found):
    lines = [line_of(f"t{i}", "merge", 20.0 + i, method="ties", **s) for i, s in enumerate(settings)]
    made = swept([line_of("base", "base", 40.0), *lines])
    if found is None:
        assert made == []
        return
    (one,) = made
    assert (one.method, one.parameter) == ("ties", "density")
    assert [x for x, _ in one.groups["in-domain"]] == found
    assert set(one.groups) == {"in-domain", "out-of-domain"}


# ---- the page ----


@pytest.fixture
def page(tmp_path):
    (tmp_path / "p.svg").write_text("<svg/>")
    table = Table("WER", ["system", "a"], [["ties †", "4.2"], ["base (hub)", "9.0"], ["other", "1"]])
    commands = [Command("ties", ["chorus merge r.yml", "chorus evaluate x"]), Command("base", ["chorus evaluate base"])]
    picture = Picture("Rates", "What is <drawn>", tmp_path / "p.svg")
    return Page("A & B", ["first <b>", "second"], [picture], [table], commands, [("seed", "1")], "name: x")


def test_a_page_needs_no_other_file(page):
    text = render(page)
    assert base64.b64encode(b"<svg/>").decode() in text
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    assert "<script" not in text


def test_what_people_wrote_is_text_on_the_page(page):
    text = render(page)
    assert "<title>A &amp; B</title>" in text
    assert "first &lt;b&gt;" in text
    assert "What is &lt;drawn&gt;" in text


def test_rows_lead_to_their_systems_commands(page):
    text = render(page)
    assert text.count('href="#cmd-ties"') == 2  # both cells of the row, the mark behind the name aside
    assert text.count('href="#cmd-base"') == 2
    assert 'id="cmd-ties"' in text
    assert "chorus merge r.yml\nchorus evaluate x" in text
    assert "#cmd-other" not in text


@given(st.text(max_size=20))
def test_anchors_are_names_that_html_allows(name):
    assert re.fullmatch(r"cmd-[A-Za-z0-9-]*", anchor_of(name))
    assert Command(name, []).anchor == anchor_of(name)


def test_a_page_without_jinja_says_how_to_install_it(page, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"chorus-merge\[evaluate\]"):
        render(page)
