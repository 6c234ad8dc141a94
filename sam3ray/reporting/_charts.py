"""Computes the SVG geometry of histograms; the page draws them."""

from __future__ import annotations

from dataclasses import dataclass

from sam3ray.reporting._facts import Histogram

WIDTH, HEIGHT = 260, 100


@dataclass(frozen=True)
class Bar:
    """One bar, in the chart's units. `title` is shown on hovering."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    total: int


def chart_of(histogram: Histogram) -> Chart:
    """Lays out bars over the whole width, with five labels below."""
    counts, edges = histogram.counts, histogram.edges
    step, most = WIDTH / len(counts), max(counts) or 1
    bars = tuple(
        Bar(
            round(i * step + 0.75, 2),
            round(HEIGHT - _height(count, most), 2),
            round(max(step - 1.5, 0.5), 2),
            round(_height(count, most), 2),
            f"{_number(edges[i])} to {_number(edges[i + 1])}: {count:,}",
        )
        for i, count in enumerate(counts)
    )
    marks = sorted({round(len(counts) * k / 4) for k in range(5)})
    ticks = tuple((round(i * step, 2), _number(edges[i])) for i in marks)
    return Chart(histogram.title, histogram.note, bars, ticks, sum(counts))


def _height(count: int, most: int) -> float:
    return max(2.0, HEIGHT * count / most) if count else 0.0


def _number(value: float) -> str:
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
