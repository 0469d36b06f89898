"""Bar charts and sparklines as SVG, made on the server, and the template tags that show them.

`{% load charts %}{% bar_chart chart %}{% sparkline values label %}`. Colors and sizes are in the
style sheet ("Charts"). Positions are percentages, so that a chart has any width while its text and
its rounded corners keep their size; the content security policy allows no inline styles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django import template
from django.template.loader import render_to_string
from django.utils import formats, translation
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

register = template.Library()

# Highest values of an axis, times a power of ten.
_TOPS: Final = (1, 2, 3, 4, 5, 6, 8, 10)
# The least height of a bar, in percent.
_LEAST: Final = 1.5
# The size of a sparkline's coordinates. Lines are inset, since half of their width is outside.
_HEIGHT: Final = 20
_INSET: Final = 1.5


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a value, and a second one that is stacked on it.

    label: what the bar stands for, such as "Mon 30 Nov"; shown when the pointer is on the bar.
    tick: the short text below the bar, "" for none.
    is_minor: whether the tick is left out on narrow screens.
    """

    label: str
    value: int
    second: int = 0
    tick: str = ""
    is_minor: bool = False

    @property
    def total(self) -> int:
        return self.value + self.second


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars from left to right, or from right to left in languages that are written so.

    title: what is shown, such as "API calls by day".
    series: the name of the value, and of the second value if there is one.
    """

    title: str
    bars: Sequence[Bar]
    series: tuple[str, ...]

    @property
    def alternative(self) -> str:
        """The title, the total of each series and the highest bar, in words."""
        totals = [sum(bar.value for bar in self.bars), sum(bar.second for bar in self.bars)]
        words = [f"{self.title}.", *(f"{text}." for text in _amounts(self.series, totals))]
        peak = max(self.bars, key=lambda bar: bar.total, default=None)
        if peak is not None and peak.total:
            words.append(
                _("Highest: %(label)s, %(number)s.")
                % {"label": peak.label, "number": _number(peak.total)}
            )
        return " ".join(words)


@register.simple_tag
def bar_chart(chart: Chart) -> SafeString:
    """Return the chart as HTML: a figure with a legend, axes and the bars as SVG."""
    top = axis_top(max((bar.total for bar in chart.bars), default=0))
    slot = 100 / max(len(chart.bars), 1)
    is_rtl = translation.get_language_bidi()
    bars = []
    density = "few" if len(chart.bars) <= 10 else "some" if len(chart.bars) <= 40 else "many"
    for number, bar in enumerate(chart.bars):
        place = len(chart.bars) - 1 - number if is_rtl else number
        amounts = _amounts(chart.series, [bar.value, bar.second])
        bars.append(
            {
                "x": _short(place * slot),
                "center": _short((place + 0.5) * slot),
                "bar": bar,
                "title": "\n".join([bar.label, *amounts]),
                "value_y": _short(_y(bar.value, top)),
                "total_y": _short(_y(bar.total, top, below=_y(bar.value, top))),
            }
        )
    context = {
        "chart": chart,
        "bars": bars,
        "slot": _short(slot),
        "density": density,
        # The end of the axis, where the text of the last bar would protrude.
        "end": "0" if is_rtl else "100",
        "scale": [_number(top), _number(top // 2) if top > 1 else "", _number(0)],
    }
    return render_to_string("charts/bar_chart.html", context)


@register.filter
def total(values: Sequence[int]) -> int:
    """Return the sum, for the text alternative of a sparkline."""
    return sum(values)


@register.simple_tag
def sparkline(values: Sequence[int], label: str = "") -> SafeString:
    """Return a small line of `values`, oldest first, with `label` as its text alternative."""
    top = max([*values, 1])
    height = _HEIGHT - 2 * _INSET
    points = " ".join(
        f"{x},{_short(_HEIGHT - _INSET - height * value / top)}" for x, value in enumerate(values)
    )
    end = max(len(values) - 1, 1)
    context = {"points": points, "end": end, "height": _HEIGHT, "label": label, "any": any(values)}
    return render_to_string("charts/sparkline.html", context)


def axis_top(peak: int) -> int:
    """Return the highest value of an axis for bars up to `peak`: round, and even or 1.

    Half of it is a number of the axis, too.
    """
    power = 1
    while power * _TOPS[-1] < peak:
        power *= 10
    tops = (power * top for top in _TOPS)
    return next(top for top in tops if top >= peak and (top == 1 or top % 2 == 0))


def _y(value: int, top: int, *, below: float = 100) -> float:
    """Return the upper end of a bar, in percent of the height from above.

    It is at least _LEAST above `below`, so that one of a thousand can be seen.
    """
    return max(min(100 - 100 * value / top, below - _LEAST), 0) if value else 100


def _amounts(series: Sequence[str], values: Sequence[int]) -> list[str]:
    """Return a line for each series; the second one is left out without a value."""
    return [
        _("%(series)s: %(number)s") % {"series": name, "number": _number(value)}
        for number, (name, value) in enumerate(zip(series, values, strict=False))
        if value or not number
    ]


def _number(value: int) -> str:
    return formats.number_format(value, force_grouping=True)


def _short(value: float) -> str:
    """Return `value` with a point in every language, and at most two digits after it."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
