"""Compares the engine with transformers' tutorial, and with the bare modules: frames/s, ms per frame, memory.

    python -m benchmarks.engine                                       # small checkpoint, on this CPU, one thread
    python -m benchmarks.engine --objects 1 16 --frames 200 --repeats 2
    python -m benchmarks.engine --device cuda --size full --dtype bfloat16 --objects 1 16 64 --frames 300 --compile

The tutorial's way loads all frames, then `init_video_session`, `propagate_in_video_iterator`, `postprocess_outputs`,
`.cpu().numpy()` and pycocotools. Ours starts from the same video file and ends with the same rows. Both run the same
random weights on the same clip with the same injected detections and tracks (see `scene`), each in a process of its
own, alternating. The floor is the time of the bare module calls that a frame needs.

With `--json FILE`, every finished row is added to the file, and rows already in it are not measured again, so that a
long benchmark can run in parts. With `--write`, the tables replace those between the markers in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pages import put


def run(job: dict[str, Any]) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "benchmarks.ways", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{job['way']} with {job['objects']} objects failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def middle(results: list[dict[str, Any]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row for each number of objects and of frames, from the file of an earlier run or measured now."""
    kept = [json.loads(line) for line in options.json.read_text().splitlines()] if _exists(options.json) else []
    if options.report:
        rows = [row | row["what"] for row in kept if row["what"].items() >= _settings(options).items()]
        return sorted(rows, key=lambda row: (row["objects"], row["frames"]))
    rows = []
    for objects in options.objects:
        for frames in options.frames:
            what = {"objects": objects, "frames": frames, **_settings(options)}
            row = next((row for row in kept if row["what"] == what), None)
            if row is None:
                row = {"what": what, **measure_row(objects, frames, options, folder)}
                if options.json:
                    with options.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            rows.append({"objects": objects, "frames": frames, **row})
    return rows


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = (
        "size",
        "device",
        "dtype",
        "compile",
        "eager",
        "threads",
        "rules",
        "repeats",
        "height",
        "width",
        "skip_tutorial",
    )
    return {name: getattr(options, name) for name in names}


def measure_row(objects: int, frames: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from benchmarks.scene import write_clip

    common = {name: getattr(options, name) for name in ("size", "device", "dtype", "compile", "eager", "threads")}
    floor = run(common | {"way": "floor", "objects": objects, "repeats": options.floor_repeats})["floor"]
    clip = folder / f"{objects}-{frames}.mp4"
    write_clip(clip, frames, objects, options.height, options.width)
    job = common | {"objects": objects, "clip": str(clip), "tracking": {"rules": options.rules}}
    results: dict[str, list[dict[str, Any]]] = {"tutorial": [], "ours": []}
    for repeat in range(options.repeats):
        for way in ("tutorial", "ours") if repeat % 2 == 0 else ("ours", "tutorial"):
            if way == "tutorial" and options.skip_tutorial:
                continue
            results[way].append(run(job | {"way": way}))
            print(objects, frames, way, json.dumps(results[way][-1]), file=sys.stderr, flush=True)
    assert all(r["frames"] == frames and r["objects"] == objects for way in results.values() for r in way), (
        "both ways must show every object on every frame"
    )
    return {"floor": floor, **results}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| objects | frames | way | frames/s | ms per frame, early | late | CPU s per 100 frames "
        "| peak memory (held by torch), MB | growth, MB per 1,000 frames |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for way in ("tutorial", "ours"):
            results = row[way]
            if not results:
                continue
            n = row["frames"]
            peak = f"{middle(results, 'peak_mb'):.0f}"
            if held := middle(results, "device_held_mb"):
                peak = f"{middle(results, 'device_peak_mb'):.0f} ({held:.0f})"
            lines.append(
                f"| {row['objects']} | {n} | {way} | {n / middle(results, 'seconds'):.2f} "
                f"| {middle(results, 'ms_early'):.0f} | {middle(results, 'ms_late'):.0f} "
                f"| {100 * middle(results, 'cpu_seconds') / n:.1f} | {peak} "
                f"| {middle(results, 'growth_mb_per_1000'):.0f} |"
            )
    lines += [
        "",
        "| objects | frames | ours against the tutorial, wall | CPU time | ours against the floor, CPU time |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        floor_cpu = sum(call["cpu"] for call in row["floor"].values())
        ours_cpu = middle(row["ours"], "cpu_seconds") / row["frames"]
        against = "| - | - "
        if row["tutorial"]:
            wall = middle(row["tutorial"], "seconds") / middle(row["ours"], "seconds")
            cpu = middle(row["tutorial"], "cpu_seconds") / middle(row["ours"], "cpu_seconds")
            against = f"| {wall:.2f}x | {cpu:.2f}x "
        lines.append(f"| {row['objects']} | {row['frames']} {against}| {ours_cpu / floor_cpu:.2f}x |")
    lines += ["", "The floor, ms of CPU time per frame:", ""]
    names = list(rows[0]["floor"])
    lines += ["| objects | " + " | ".join(names) + " | sum |", "| --- " * (len(names) + 2) + "|"]
    for objects in dict.fromkeys(row["objects"] for row in rows):
        calls = next(row["floor"] for row in rows if row["objects"] == objects)
        values = [1e3 * calls[name]["cpu"] for name in names]
        lines.append(f"| {objects} | " + " | ".join(f"{value:.0f}" for value in [*values, sum(values)]) + " |")
    return "\n".join(lines)


def heading(options: argparse.Namespace) -> str:
    load = os.getloadavg()[0]
    return (
        f"{options.size} checkpoint, {options.dtype}, {options.device}, {options.threads} thread(s), "
        f"{options.width}x{options.height}, rules {options.rules}, {options.repeats} alternating repeat(s), "
        f"{platform.machine()} with {os.cpu_count()} cores, load average {load:.1f} at the end."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8, 16, 64])
    parser.add_argument("--frames", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers, in both ways")
    parser.add_argument("--eager", action="store_true", help="on a GPU: launch everything, capture nothing")
    parser.add_argument("--rules", choices=["published", "transformers"], default="published")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--floor-repeats", type=int, default=5)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--skip-tutorial", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--json", type=Path, help="file of raw numbers, read and added to")
    parser.add_argument("--report", action="store_true", help="only print the tables of the --json file")
    options = parser.parse_args()
    if options.report and not _exists(options.json):
        parser.error("--report needs --json with an existing file")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    text = f"{heading(options)}\n\n{table(rows)}"
    print(text)
    if options.write:
        put("performance.md", "engine benchmark", text)


if __name__ == "__main__":
    main()
