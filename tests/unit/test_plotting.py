"""Figures: one style, the same bytes for the same numbers, and every form that a suffix names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chorus.errors import MissingExtraError
from chorus.plotting import GRID, figure, save
from chorus.report.plots import Point, by_domain, curve, ranks, trade


def test_panels_share_the_style() -> None:
    drawn, axes = figure(6, 3, panels=3, title="all of it")
    assert len(axes) == 3
    for one in axes:
        assert not one.spines["top"].get_visible()
        assert one.get_xgridlines()[0].get_color() == GRID
    assert drawn.get_suptitle() == "all of it"


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_same_numbers_make_the_same_bytes(suffix: str, start: bytes, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        drawn, (axes,) = figure(4, 3)
        axes.plot([1, 2, 3], [3, 1, 2], label="a line")
        axes.legend()
        written.append(save(drawn, tmp_path / "new" / f"{name}{suffix}").read_bytes())
    assert written[0].startswith(start)
    assert written[0] == written[1]


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="drawing plots"):
        figure(1, 1)


NAN = float("nan")


def test_plots_stand_what_results_hold(tmp_path: Path) -> None:
    """A rate that is not defined, one far beyond the others, long names, one system alone, equal places."""
    points = [
        Point("a system of a long name", "merge", {"radio": NAN, "phone": 900.0, "in-domain": 40.0}),
        Point("b", "base", {"radio": 10.0, "phone": 12.0, "in-domain": 40.0}, {"radio": (5.0, 15.0)}),
    ]
    for number, some in enumerate((points, points[:1])):
        drawn = by_domain(some, ["radio", "phone"], tmp_path / f"domains{number}", what="error rate")
        assert [p.suffix for p in drawn] == [".png", ".svg"]
        assert all(p.stat().st_size > 2000 for p in drawn)
    same = [Point(n, "merge", {"x": 1.0, "y": 1.0}) for n in "ab"]
    assert trade(same, tmp_path / "trade", x="x", y="y", x_name="x", y_name="y")[1].exists()
    lines = {"one": [(0.1, 5.0), (0.2, NAN)]}
    assert curve(lines, tmp_path / "curve", parameter="p", what="w", bands={"one": [(1, 9), (NAN, NAN)]})[0].exists()
    assert ranks([("m", "merge", [0.0, 0.0])], tmp_path / "ranks", what="rank")[0].exists()


def test_where_more_is_better_the_front_lies_above(tmp_path: Path) -> None:
    points = [Point("low", "merge", {"x": 1.0, "y": 1.0}), Point("high", "merge", {"x": 9.0, "y": 9.0})]
    less, more = (
        trade(points, tmp_path / f"t{sign}", x="x", y="y", x_name="x", y_name="y", sign=sign)[1].read_text()
        for sign in (1, -1)
    )
    assert less != more
