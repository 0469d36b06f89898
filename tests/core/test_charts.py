"""Charts as SVG."""

import re
from xml.etree import ElementTree

import pytest
from django.utils import translation

from core.charts import Bar, Chart, axis_top, bar_chart, sparkline

SERIES = ("API calls", "Refused calls")


def chart_of(*bars: Bar, series: tuple[str, ...] = SERIES) -> Chart:
    return Chart(title="API calls by day", bars=bars, series=series)


def parsed(markup: str) -> ElementTree.Element:
    """Return the root of the markup, which is XML as well as HTML."""
    return ElementTree.fromstring(markup)  # noqa: S314 (our own)


def texts(root: ElementTree.Element, tag: str) -> list[str]:
    return [element.text or "" for element in root.iter(tag)]


def bars_in(root: ElementTree.Element) -> list[list[tuple[str, str]]]:
    """Return class and upper end of the rectangles of each bar, but not of its pointer area."""
    plot = root.find("svg")
    assert plot is not None
    return [
        [(rect.get("class", ""), rect.get("y", "")) for rect in bar.findall("rect")[1:]]
        for bar in plot.findall("svg")
    ]


@pytest.mark.parametrize(
    ("peak", "top"),
    [(0, 1), (1, 1), (2, 2), (3, 4), (5, 6), (9, 10), (11, 20), (41, 50), (99, 100), (4321, 5000)],
)
def test_the_axis_ends_at_a_round_number_that_can_be_halved(peak, top):
    assert axis_top(peak) == top


def test_refusals_are_stacked_on_calls():
    root = parsed(bar_chart(chart_of(Bar("Mon", 50, 25), Bar("Tue", 100), Bar("Wed", 0))))
    assert bars_in(root) == [[("b r", "25%"), ("b f", "50%")], [("b", "0%")], []]


def test_one_of_a_million_can_be_seen():
    ((refused, calls), (alone,)) = bars_in(
        parsed(bar_chart(chart_of(Bar("Mon", 1_000_000, 1), Bar("Tue", 1))))
    )
    assert float(alone[1].rstrip("%")) < 99
    assert float(refused[1].rstrip("%")) < float(calls[1].rstrip("%")) or calls[1] == "0%"


def test_the_text_alternative_has_totals_and_the_highest_bar():
    root = parsed(bar_chart(chart_of(Bar("Mon", 1200, 3), Bar("Tue", 34))))
    (plot, _ticks) = root.findall("svg")
    assert plot.get("role") == "img"
    assert plot.get("aria-label") == (
        "API calls by day. API calls: 1,234. Refused calls: 3. Highest: Mon, 1,203."
    )


def test_each_bar_has_a_title_and_some_have_a_tick():
    root = parsed(bar_chart(chart_of(Bar("Monday", 1200, 3, tick="Mon"), Bar("Tuesday", 0))))
    assert texts(root, "title") == [
        "Monday\nAPI calls: 1,200\nRefused calls: 3",
        "Tuesday\nAPI calls: 0",
    ]
    assert texts(root, "text") == ["Mon"]


def test_a_chart_of_one_series_has_no_legend():
    assert "figcaption" in bar_chart(chart_of(Bar("Mon", 1)))
    assert "figcaption" not in bar_chart(chart_of(Bar("Mon", 1), series=("API calls",)))


def test_time_runs_from_right_to_left_in_arabic():
    def places() -> list[str]:
        root = parsed(bar_chart(chart_of(Bar("first", 1), Bar("last", 1))))
        return [bar.get("x", "") for bar in root.findall("svg")[0].findall("svg")]

    assert places() == ["0%", "50%"]
    with translation.override("ar"):
        assert places() == ["50%", "0%"]


def test_names_are_escaped():
    chart = chart_of(Bar("<b>&", 1, tick="<i>"), series=("<u>", '"'))
    assert not re.search("<[biu]>", bar_chart(chart))
    assert "<b>" not in sparkline([1], "<b>")


def test_the_content_security_policy_allows_all_of_it():
    markup = bar_chart(chart_of(Bar("Mon", 5, 1))) + sparkline([1, 2], "calls")
    assert not re.search(r"\sstyle=|<style|<script|\son\w+=", markup)


def test_a_chart_of_thirty_bars_is_small():
    bars = [Bar(f"Mon, {day} Nov", 12_345, 678, "1 Nov" * (day % 5 == 0)) for day in range(30)]
    assert len(bar_chart(chart_of(*bars)).encode()) < 6_500


def test_a_chart_without_bars_or_calls_is_drawn():
    assert bars_in(parsed(bar_chart(chart_of()))) == []
    assert bars_in(parsed(bar_chart(chart_of(Bar("Mon", 0))))) == [[]]


def test_a_sparkline_goes_from_the_oldest_to_the_newest_value():
    root = parsed(sparkline([0, 5, 10], "15 calls"))
    line = root.find("polyline")
    assert line is not None
    assert line.get("points") == "0,18.5 1,10 2,1.5"
    assert (root.get("role"), root.get("aria-label")) == ("img", "15 calls")
    assert texts(root, "title") == ["15 calls"]


def test_a_sparkline_without_a_label_is_decoration():
    root = parsed(sparkline([0, 0]))
    assert root.get("aria-hidden") == "true"
    assert "none" in (root.get("class") or "")
