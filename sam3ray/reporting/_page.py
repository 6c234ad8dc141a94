"""Renders the page: one HTML file that loads nothing.

All untrusted text passes through `printable` and is escaped. In addition, a content security policy forbids scripts and
requests.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sam3ray.display.readable import readable_span
from sam3ray.guard.printable import printable
from sam3ray.reporting._charts import chart_of
from sam3ray.reporting._facts import ClipCard, ReportFacts
from sam3ray.store import RunStore, layout

MOST_BYTES = 10_000_000
_STILLS_BYTES = 6_500_000  # base64 makes them a third larger


def render_page(facts: ReportFacts, made_at: float | None = None) -> str:
    """Renders the page. If it would be too large, drops stills, those of the last clips first."""
    facts = replace(facts, **_within(facts))
    return (
        _environment()
        .get_template("page.jinja")
        .render(
            f=facts,
            charts=[chart_of(each) for each in facts.histograms],
            made_at=time.time() if made_at is None else made_at,
            version=_version(),
        )
    )


def write_page(store: RunStore, facts: ReportFacts) -> int:
    """Writes the page in one step, and returns its size in bytes."""
    data = render_page(facts).encode()
    store.storage.replace_bytes(data, layout.REPORT)
    return len(data)


def _within(facts: ReportFacts) -> dict[str, Any]:
    room = _STILLS_BYTES
    kept: dict[str, Sequence[ClipCard]] = {}
    for name in ("worst", "best"):
        cards = []
        for card in getattr(facts, name):
            size = sum(len(still.jpeg) for still in card.stills)
            fits = size <= room
            room -= size if fits else 0
            cards.append(card if fits else replace(card, stills=(), no_stills="the page would be too large"))
        kept[name] = cards
    return kept


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sam3ray.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "base64": _base64,
        "count": lambda value: f"{value:,}",
        "flex": lambda value: f"{value:.6f}",
        "hours": lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}",
        "moment": lambda value: f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M} UTC",
        "percent": lambda value: f"{value:.2f}",
        "rate": lambda value: f"{value:.1f}" if value < 100 else f"{value:,.0f}",
        "short": _short,
        "span": lambda value: f"{value:.1f} s" if value < 10 else readable_span(value),
    }
    return environment


def _base64(data: bytes) -> Markup:
    return Markup(base64.b64encode(data).decode())


def _shown(value: Any) -> Any:
    """A value as text. The template escapes it."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _short(value: float) -> str:
    """ "1,234", "56.7 k", "8.9 M"."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= factor:
            number = value / (1e3 if unit == " k" else factor)
            return f"{number:.1f}{unit}" if number < 100 else f"{number:.0f}{unit}"
    return f"{value:,}"


def _version() -> str:
    try:
        return version("sam3ray")
    except PackageNotFoundError:
        return ""
