"""A plan as people read it."""

from __future__ import annotations

from typing import Any

from sam3ray.planning._plan import Plan
from sam3ray.terminal.console import add_row, byte_size, facts_table

LISTED = 20


def plan_report(plan: Plan) -> list[Any]:
    """Tables for `rich`."""
    from rich.table import Table

    cost = plan.estimate
    facts = {
        "manifest": plan.manifest,
        "output": plan.output,
        "clips": plan.clips,
        "done": plan.done,
        "failed for good": plan.settled,
        "to do": plan.to_do,
        "probed": None if plan.sampled is None else f"{plan.sampled:,} of them; frames, hours and cost are scaled up",
        "unreadable": plan.unreadable,
        "frames": plan.frames,
        "hours of video": f"{plan.hours:,.2f}",
        "length not known": plan.unknown_length or None,
        "output size": f"about {byte_size(cost.output_bytes)}",
        f"{cost.device} time": "not estimated" if cost.actor_hours is None else _hours(cost.actor_hours),
        "time until done": None if cost.wall_hours is None else _hours(cost.wall_hours),
        "assuming": "; ".join(cost.assumptions),
    }
    parts: list[Any] = [facts_table(facts)]
    if plan.listed:
        table = Table("clip", "reason", "what is wrong", "uri", box=None, pad_edge=False, title_justify="left")
        for clip in plan.listed[:LISTED]:
            add_row(table, clip.clip_id, clip.reason, clip.message, clip.uri)
        parts += ["", "Unreadable clips:", table]
        more = sum(plan.unreadable.values()) - min(LISTED, len(plan.listed))
        if more > 0:
            parts.append(f"... and {more} more (--json lists them)")
    return parts


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"about {hours * 3600:.0f} s"
    return f"about {hours * 60:.0f} min" if hours < 1 else f"about {hours:,.1f} h"
