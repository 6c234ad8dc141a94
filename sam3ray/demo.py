"""The demo: draws clips, runs the whole job on a local Ray, renders annotated videos, and evaluates the labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sam3ray.display.console import add_row
from sam3ray.failures import UserError
from sam3ray.guard.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sam3ray.evaluate import Report
    from sam3ray.job import JobSummary


@dataclass(frozen=True)
class DemoResult:
    """The demo's results, and where to find them. `report` is a sentence if nothing could be evaluated."""

    folder: Path
    summary: JobSummary
    report: Report | str

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def exit_code(self) -> int:
        return self.summary.exit_code

    def as_json(self) -> dict[str, Any]:
        return {
            "output": str(self.run),
            "clips": self.summary.clips,
            "done": self.summary.done + self.summary.skipped,
            "failed": dict(self.summary.failed),
            "frames": self.summary.frames,
            "seconds": self.summary.seconds,
            "rendered": self.summary.rendered,
            "evaluation": self.report if isinstance(self.report, str) else self.report.as_json(),
        }

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        clips = Table(title="What was found", title_justify="left", box=None, pad_edge=False)
        for name in ("clip", "prompt", "objects", "frames", "rows", "mean area"):
            clips.add_column(name, justify="left" if name in ("clip", "prompt") else "right")
        for row in _found(self.run):
            add_row(clips, *row)
        places = Table(title="Where to look", title_justify="left", box=None, pad_edge=False, show_header=False)
        add_row(places, "annotated videos", f"{self.run}/videos/*.mp4")
        add_row(places, "annotations", f"{self.run}/annotations/*.parquet")
        add_row(places, "one row per clip", f"{self.run}/clips.parquet")
        add_row(places, "run it again", f"sam3ray run {self.folder}/demo.yaml")
        add_row(places, "compare it again", f"sam3ray eval {self.run} --truth {self.folder}/clips/truth")
        report = Text(printable(self.report)) if isinstance(self.report, str) else self.report.table()
        return Group(clips, "", places, "", report)


def run_demo(output: str) -> DemoResult:
    """Draws the clips (once), runs or resumes their job, renders and evaluates.

    Raises:
        UserError: `output` cannot be written to, or has a run of another version.
        JobStopped: see `sam3ray.job.run_job`.
    """
    from sam3ray.config import load_config
    from sam3ray.evaluate import evaluate_run
    from sam3ray.job import make_progress, run_job
    from sam3ray.shapes import demo_clips

    folder = Path(output).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rows = demo_clips(folder / "clips")
        manifest = folder / "clips.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = folder / "demo.yaml"
        config.write_text(yaml.safe_dump(_config(folder, manifest), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--output {output}: {error.filename} cannot be written ({error.strerror}); choose another folder"
        ) from None
    summary = run_job(load_config(str(config)), progress=make_progress())
    try:
        report: Report | str = evaluate_run(str(folder / "run"), str(folder / "clips" / "truth"))
    except UserError as error:
        report = f"not evaluated: {error}"
    return DemoResult(folder, summary, report)


def _config(folder: Path, manifest: Path) -> dict[str, Any]:
    return {
        "manifest": str(manifest),
        "output": str(folder / "run"),
        "model": {"checkpoint": "embedded"},
        "cluster": {"actors": {"min": 1, "max": 2}, "gpus_per_actor": 0, "cpus_per_actor": 1},
        "render": {"enabled": True},
    }


def _found(run: Path) -> list[tuple[str, str, int, int, int, int]]:
    """For each clip and prompt: number of objects, of frames with any, and of rows, and the mean area in pixels."""
    from sam3ray.annotations import read_annotations

    table = read_annotations(str(run)).to_table(["clip_id", "prompt", "object_id", "frame_index", "area"])
    table = table.set_column(0, "clip_id", table["clip_id"].cast("string"))
    table = table.set_column(1, "prompt", table["prompt"].cast("string"))
    grouped = table.group_by(["clip_id", "prompt"]).aggregate(
        [("object_id", "count_distinct"), ("frame_index", "count_distinct"), ("area", "count"), ("area", "mean")]
    )
    rows = grouped.sort_by([("clip_id", "ascending"), ("prompt", "ascending")]).to_pylist()
    return [
        (
            row["clip_id"],
            row["prompt"],
            row["object_id_count_distinct"],
            row["frame_index_count_distinct"],
            row["area_count"],
            round(row["area_mean"]),
        )
        for row in rows
    ]
