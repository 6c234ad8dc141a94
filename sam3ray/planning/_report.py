"""A plan for people to read."""

from __future__ import annotations

from typing import Any

from sam3ray.display.console import add_row, facts_table
from sam3ray.planning._result import Plan

LISTED = 20


def plan_report(plan: Plan) -> list[Any]:
    """Tables for `rich`."""
    from rich.table import Table

    parts: list[Any] = [facts_table(plan.facts())]
    if plan.windows is not None and plan.windows.listed:
        columns = ("clip", "work", "windows", "parallel windows", "sequential")
        table = Table(*columns, box=None, pad_edge=False, title_justify="left")
        for long in plan.windows.listed[:LISTED]:
            cut, sequential = f"{long.cut:,}" if long.cut else "", long.sequential or "no"
            add_row(table, long.clip_id, f"{long.seconds:,.0f} s", f"{long.windows:,}", cut, sequential)
        parts += ["", "The longest clips:", table]
    if plan.listed:
        table = Table("clip", "reason", "what is wrong", "uri", box=None, pad_edge=False, title_justify="left")
        for clip in plan.listed[:LISTED]:
            add_row(table, clip.clip_id, clip.reason, clip.message, clip.uri)
        parts += ["", "Unreadable clips:", table]
        more = sum(plan.unreadable.values()) - min(LISTED, len(plan.listed))
        if more > 0:
            parts.append(f"... and {more} more (--json lists them)")
    return parts
