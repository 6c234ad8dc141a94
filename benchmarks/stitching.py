"""What cutting a clip into windows costs in identities: against the truth, and against the same clip in one piece.

    python -m benchmarks.stitching --work /tmp/stitching              # 20 drawn clips of 600 frames, one by one
    python -m benchmarks.stitching --work /tmp/stitching --jobs 16    # in 16 processes
    python -m benchmarks.stitching --work /tmp/stitching --clips 2 --json figures.json
    python -m benchmarks.stitching --work /tmp/stitching --figures    # of what is there, without working on more
    python -m benchmarks.stitching --table figures.json --write       # put figures into the docs

The clips are hard on purpose: four or five objects of one shape cross, pass behind pillars, leave the frame and come
back. Each clip is worked on in one piece and in windows of 60, 150 and 300 frames, once a window: a window with the
longest overlap holds the rows of every shorter one. All that the windows gave, and the figures of each clip, are kept
in the work folder: a run that was stopped goes on where it was. Figures are of the clips whose windows are all there.
A clip takes about four minutes of a processor; with `--jobs`, several processes share a clip, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sam3ray
from benchmarks.crossings import (
    KINDS,
    Boundary,
    Compared,
    Shown,
    all_of,
    crossings,
    measured,
    memory_links,
    partners,
)
from benchmarks.hard_clips import FIRST_SEED, Clip
from benchmarks.pages import put
from sam3ray.engine.ending import Ending
from sam3ray.engine.lookahead import LENGTH_HORIZON
from sam3ray.engine.result import SessionResult
from sam3ray.engine.state import bound_to
from sam3ray.evaluate._track_eval import Measured, combine
from sam3ray.job.window_rows import read_window, write_window
from sam3ray.model import Model
from sam3ray.stitching import Following, Links, MemoryProbe, Window, link_windows, merge
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.cutting import MOST_FOLLOWED, Cut, cuts

OVERLAPS = {60: (4, 8, 16), 150: (4, 8, 16, 32), 300: (4, 8, 16, 32)}
HOTSTART = 15


# ---- the windows ------------------------------------------------------------------------------------------------


class Once:
    """Backbone and detector look at a frame once, however many windows hold it. The numbers are the same."""

    def __init__(self, model: Model, size: tuple[int, int], like: Once | None = None) -> None:
        with model.session(*size) as session:
            self._engine = session.engine
        self._neck, self._detector = self._engine.neck, self._engine.detector
        self._seen: dict[bytes, Any] = {} if like is None else like._seen
        self._found: dict[int, Any] = {} if like is None else like._found

    def __enter__(self) -> Once:
        self._engine.neck = self._engine.detector = self  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.neck, self._engine.detector = self._neck, self._detector

    def see(self, pixels: torch.Tensor) -> Any:
        key = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()
        if key not in self._seen:
            self._seen[key] = self._neck.see(pixels)
        return self._seen[key]

    def propose(self, hidden: torch.Tensor, phrases: Any, position: int) -> Any:
        if id(hidden) not in self._found:  # `_seen` keeps it, so that its id stays its own
            self._found[id(hidden)] = self._detector.propose(hidden, phrases, position)
        return self._found[id(hidden)]


def pieces(length: int) -> dict[int, list[Cut]]:
    """Window length -> its windows, with the longest overlap."""
    every = {w: list(cuts(length, w, max(overlaps), HOTSTART, 2)) for w, overlaps in OVERLAPS.items()}
    return {w: found for w, found in every.items() if found}


def with_overlap(found: Sequence[Cut], overlap: int, length: int) -> list[Cut]:
    """The same windows with a shorter overlap."""
    untils = [min(cut.stop + overlap, length) for cut in found]
    ends = [min(until + cut.end - cut.until, length) for until, cut in zip(untils, found, strict=True)]
    reaches = [min(until + MOST_FOLLOWED, then) for until, then in zip(untils, [*untils[1:], length], strict=True)]
    each = zip(found, untils, ends, reaches, strict=True)
    return [replace(cut, until=until, end=end, reach=reach) for cut, until, end, reach in each]


def snapshots_of(found: Sequence[Cut], index: int, size: int, length: int) -> list[Cut]:
    """A window as it is with each overlap; none if nothing follows."""
    if found[index].until == length:
        return []
    return [with_overlap(found, overlap, length)[index] for overlap in OVERLAPS[size]]


def stop_of(cut: Cut, rows: Sequence[FrameAnnotations]) -> int:
    """Where the window's rows end."""
    following = Following(cut)
    for position, row in enumerate(rows, cut.start):
        following.take(position, row)
    assert following.stop is not None, "the window has worked on so long"
    return following.stop


def work(
    model: Model, clip: Clip, start: int, end: int, snapshots: Sequence[Cut]
) -> tuple[list[FrameAnnotations], dict[int, Ending], bool]:
    """The rows from `start` on, the ending at the `until` of each of these cuts, and whether an object got an old id
    (`relink`). Works up to `end`, and on until the rows of all these cuts have ended.
    """
    followed = {cut.until: Following(cut) for cut in snapshots}
    taken: dict[int, Ending] = {}
    rows: list[FrameAnnotations] = []
    renamed: list[int] = []

    def take(found: Iterable[SessionResult]) -> None:
        for result in found:
            for each in followed.values():
                each.take(start + len(rows), result.annotations)
            rows.append(result.annotations)

    def worked() -> None:
        if session.relinker is not None:
            renamed.extend(session.relinker.renamed)
        done = start + session.clock.worked
        if done in followed:
            taken[done] = Ending.of(session, start)

    with model.session(*clip.size, length=max(end - start, LENGTH_HORIZON)) as session:
        session.opening = start == 0
        session.progress = worked
        session.add(clip.prompt)
        for frame in clip.read(start):
            if frame.index >= end and all(each.stop is not None for each in followed.values()):
                break
            take(session.step(frame))
        take(session.finish())
    return rows, taken, bool(renamed)


def keep(folder: Path, name: str, rows: Sequence[FrameAnnotations], taken: Mapping[int, Ending]) -> None:
    ids = {each.object_id: each.object_id for frame in rows for each in frame.objects}
    for until, ending in taken.items():
        ending.write(folder / f"{name}-{until}.safetensors", ids)
    partial = folder / f".{name}.parquet"
    write_window(partial, name, list(rows))
    partial.rename(folder / f"{name}.parquet")


def starts_of(clip: Clip) -> list[int]:
    """Where windows begin, but for the first."""
    return sorted({cut.start for found in pieces(clip.length).values() for cut in found[1:]})


def compute_windows(model: Model, clip: Clip, folder: Path, once: Once, starts: Sequence[int]) -> None:
    """The windows that begin at these positions, as far as they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    windows = pieces(clip.length)
    with once:
        for start in starts:  # windows that begin together are worked on together: the longest has the others' rows
            these = {w: cut for w, found in windows.items() for cut in found[1:] if cut.start == start}
            names = {w: f"{w}-{cut.index}" for w, cut in these.items()}
            if all((folder / f"{name}.parquet").exists() for name in names.values()):
                continue
            ends = {w: snapshots_of(windows[w], cut.index, w, clip.length) for w, cut in these.items()}
            last = max(cut.end for cut in these.values())
            rows, taken, _ = work(model, clip, start, last, [each for of in ends.values() for each in of])
            for w, cut in these.items():
                own = {each.until: taken[each.until] for each in ends[w]}
                stop = max((stop_of(each, rows) for each in ends[w]), default=cut.until)
                keep(folder, names[w], rows[: stop - start], own)


def compute_whole(model: Model, clip: Clip, folder: Path, once: Once) -> None:
    """In one piece, with `tracking.relink` and without: twice only if an object got an old id."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "relinked.parquet").exists():
        return
    windows = pieces(clip.length)
    firsts = [each for w, found in windows.items() for each in snapshots_of(found, 0, w, clip.length)]
    relinking = model.with_tracking(model.tracking.model_copy(update={"relink": True}))
    with Once(relinking, clip.size, once):
        rows, taken, is_other = work(relinking, clip, 0, clip.length, firsts)
    if not (folder / "whole.parquet").exists():
        if is_other:
            with once:
                again = work(model, clip, 0, clip.length, firsts)
            keep(folder, "whole", again[0], again[1])
        else:  # the endings are those of a model that does not relink
            with model.session(*clip.size) as session:
                binding = bound_to(session.engine)
            plain = {
                until: replace(ending, state=replace(ending.state, bound_to=binding)) for until, ending in taken.items()
            }
            keep(folder, "whole", rows, plain)
    keep(folder, "relinked", rows, {})


# ---- the figures ------------------------------------------------------------------------------------------------


def figures(model: Model, clip: Clip, folder: Path, out: dict[str, Any]) -> None:
    """Of one clip, as JSON: by window length, overlap and probe. Only those that are missing, of what is there."""
    if not (folder / "whole.parquet").exists():
        return
    truth, whole = list(clip.truth()), list(read_window(folder / "whole.parquet"))
    both = {True: truth, False: whole}
    of_whole = {true: Compared(whole, others, true=true) for true, others in both.items()}
    at_whole = all_of(of_whole[True], whole)
    of_one_piece = [partners(*each) for each in zip(at_whole, whole, truth, strict=True)]
    out["whole"] = _json(measured(at_whole, whole, truth))
    if (folder / "relinked.parquet").exists() and "relinked" not in out:
        relinked = list(read_window(folder / "relinked.parquet"))
        one = all_of(Compared(relinked, truth, true=True), relinked)
        out["relinked"] = _json(measured(one, relinked, truth))
    with model.session(*clip.size) as session:
        rules = session.engine.rules
    for w, found in pieces(clip.length).items():
        is_there = all((folder / f"{w}-{cut.index}.parquet").exists() for cut in found[1:])
        wanted = {
            f"{w}/{overlap}/{'memory' if with_probe else 'overlap'}": (overlap, with_probe)
            for overlap, with_probe in product(OVERLAPS[w], (False, True))
        }
        wanted = {name: how for name, how in wanted.items() if name not in out}
        if not is_there or not wanted:
            continue
        rows = [whole, *(list(read_window(folder / f"{w}-{cut.index}.parquet")) for cut in found[1:])]
        compared = {
            true: [
                Compared(each, others[cut.start : cut.start + len(each)], true=true)
                for each, cut in zip(rows, found, strict=True)
            ]
            for true, others in both.items()
        }
        for name, (overlap, with_probe) in wanted.items():
            shorter = with_overlap(found, overlap, clip.length)
            if not with_probe:  # nor do windows run on
                shorter = [replace(cut, reach=cut.until) for cut in shorter]
            stops = [stop_of(cut, each) for cut, each in zip(shorter, rows, strict=True)]
            own = [each[: stop - cut.start] for cut, each, stop in zip(shorter, rows, stops, strict=True)]
            windows = [
                Window(cut, each, _ending(folder, w, cut, clip.length)) for cut, each in zip(shorter, own, strict=True)
            ]
            if with_probe and not all(each.ending is None or each.ending.exists() for each in windows):
                continue  # rows can be kept without what the objects remember
            probe = MemoryProbe(model, *clip.size, windows, clip.frame_at) if with_probe else None
            links = Links.loads(link_windows(windows, probe, [clip.prompt], rules=rules).dumps())
            places: list[tuple[int, int]] = []
            for k, (cut, stop) in enumerate(zip(shorter, stops, strict=True)):
                places += [(k, t - cut.start) for t in range(len(places), stop)]
            # As `merge` shows them, but in the order of the window's rows, in which they were compared.
            objects = [_shown(rows[k][n], k, t, links) for t, (k, n) in enumerate(places)]
            merged = [_renamed(rows[k][n], k, of, links) for (k, n), of in zip(places, objects, strict=True)]
            assert [{each.object_id for each in frame.objects} for frame in merged] == [
                {each.object_id for each in frame.objects} for frame in merge(windows, links)
            ]
            boundaries = [Boundary(stop - overlap, stop) for stop in stops[:-1]]
            at = {
                true: [Shown(compared[true][k], n, of) for (k, n), of in zip(places, objects, strict=True)]
                for true in both
            }
            matched = {
                true: [partners(*each) for each in zip(at[true], merged, others, strict=True)]
                for true, others in both.items()
            }
            out[name] = {
                "truth": _json(measured(at[True], merged, truth)),
                "whole": _json(measured(at[False], merged, whole)),
                "crossings": crossings(boundaries, whole, matched[False], true=False),
                "true": crossings(boundaries, truth, matched[True], true=True),
                "true, one piece": crossings(boundaries, truth, of_one_piece, true=True),
                "as in one piece": crossings(boundaries, truth, matched[True], true=True, piece=of_one_piece),
                "by_memory": memory_links(links, own, compared[True]),
                "hidden": len(links.hidden),
                "run_on": [stop - cut.until for cut, stop in zip(shorter, stops, strict=True)][:-1],
            }


def _shown(frame: FrameAnnotations, window: int, position: int, links: Links) -> list[int]:
    """Which of a window's objects the clip shows on a frame."""
    return [n for n, each in enumerate(frame.objects) if links.is_shown(window, each.object_id, position)]


def _renamed(frame: FrameAnnotations, window: int, shown: Sequence[int], links: Links) -> FrameAnnotations:
    objects = [frame.objects[n] for n in shown]
    ids = (links.by_track[window, each.object_id].object_id for each in objects)
    return replace(frame, objects=tuple(replace(o, object_id=i) for o, i in zip(objects, ids, strict=True)))


def _ending(folder: Path, size: int, cut: Cut, length: int) -> Path | None:
    if cut.until == length:
        return None
    return folder / f"{f'{size}-{cut.index}' if cut.index else 'whole'}-{cut.until}.safetensors"


def _json(found: Measured) -> dict[str, Any]:
    """TrackEval's counts, from which clips are combined, as JSON."""
    return {
        metric: {
            name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for name, value in of.items()
        }
        for metric, of in found.items()
    }


def _combined(parts: Sequence[Mapping[str, Any]]) -> tuple[float, float, int]:
    """HOTA, IDF1, switches."""
    again = [
        {m: {n: np.array(v) if isinstance(v, list) else v for n, v in of.items()} for m, of in p.items()} for p in parts
    ]
    found = combine(again)
    return float(np.mean(found["HOTA"]["HOTA"])), float(found["Identity"]["IDF1"]), int(found["CLEAR"]["IDSW"])


def interval(kept: int, count: int) -> str:
    """Wilson's 95% interval."""
    if not count:
        return ""
    z, p = 1.96, kept / count
    middle, half = p + z * z / (2 * count), z * float(np.sqrt(p * (1 - p) / count + z * z / (4 * count * count)))
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return f" ({max(low, 0):.0%}-{min(high, 1):.0%})"


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Of all clips."""
    clips = [each for _, each in sorted(found.items()) if "whole" in each]
    hota, idf1, switches = _combined([each["whole"] for each in clips])
    lines = [
        "| windows | overlap | HOTA | IDF1 | switches | per 1,000 crossings | IDF1, one piece as truth |"
        " ids kept: visible | partly | hidden | run on |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| one piece | | {hota:.3f} | {idf1:.3f} | {switches} | | 1 | | | | |",
    ]
    every = [(w, overlap, how) for w in OVERLAPS for overlap in OVERLAPS[w] for how in ("overlap", "memory")]
    for w, overlap, how in every:
        of = [each[name] for each in clips if (name := f"{w}/{overlap}/{how}") in each]
        if not of:
            continue
        apart = _combined([each["whole"] for each in clips if name in each])
        here, here_idf1, here_switches = _combined([each["truth"] for each in of])
        counts = {kind: np.sum([each["crossings"][kind] for each in of], axis=0).tolist() for kind in KINDS}
        total = sum(count for count, _ in counts.values())
        kept = " | ".join(f"{kept} of {count}{interval(kept, count)}" for count, kept in counts.values())
        if how == "memory":
            kept += f" | {np.mean([n for each in of for n in each['run_on']]):.0f}"
        else:
            kept += " | "
        cells = (
            f"{w}" if len(of) == len(clips) else f"{w} ({len(of)} clips)",
            f"{overlap}{' + memory' if how == 'memory' else ''}",
            f"{here:.3f} ({here - apart[0]:+.3f})",
            f"{here_idf1:.3f}",
            f"{here_switches}",
            f"{1000 * (here_switches - apart[2]) / max(total, 1):+.0f}",
            f"{_combined([each['whole'] for each in of])[1]:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} | {kept} |")
    lines += [
        "",
        "| windows | overlap | ids kept, truth as reference: visible (one piece) | partly | hidden |"
        " hidden, kept in one piece | links by memory: right | wrong | to no object |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for w, overlap, how in every:
        of = [each[name] for each in clips if (name := f"{w}/{overlap}/{how}") in each]
        if of and how == "memory":
            here, piece = (
                {kind: np.sum([each[name][kind] for each in of], axis=0).tolist() for kind in KINDS}
                for name in ("true", "true, one piece")
            )
            cells = [f"{here[k][1]} of {here[k][0]}{interval(*here[k][::-1])} ({piece[k][1]})" for k in KINDS]
            count, kept = np.sum([each["as in one piece"]["hidden"] for each in of], axis=0).tolist()
            cells.append(f"{kept} of {count}{interval(kept, count)}")
            cells += [str(each) for each in np.sum([each["by_memory"] for each in of], axis=0).tolist()]
            lines.append(f"| {w} | {overlap} + memory | {' | '.join(cells)} |")
    many = "s" if len(clips) > 1 else ""
    seeds = sorted(int(name.removeprefix("hard-")) for name, each in found.items() if "whole" in each)
    all_there = seeds[-1] - seeds[0] == len(seeds) - 1 > 1
    which = f"{seeds[0]} to {seeds[-1]}" if all_there else ", ".join(map(str, seeds))
    lines += ["", f"{len(clips)} drawn clip{many}, seed{many} {which}; 95% intervals by Wilson."]
    both = [each for each in clips if "relinked" in each]
    for name, how in (("whole", "without"), ("relinked", "with")):
        if both:
            hota, idf1, count = _combined([each[name] for each in both])
            said = f"HOTA {hota:.3f}, IDF1 {idf1:.3f}, {count} switches"
            lines.append(f"In one piece {how} `tracking.relink` ({len(both)} clips): {said}.")
    return "\n".join(lines)


# ---- the run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Work for one process: the clip in one piece (None), the windows that begin at some positions, or its figures."""

    options: argparse.Namespace
    seed: int
    starts: tuple[int, ...] | None = None
    is_figures: bool = False

    def run(self) -> dict[str, Any]:
        """The figures, as far as they can be made."""
        model = _loaded(self.options.checkpoint)
        clip = Clip(self.seed, *self.options.size, self.options.frames)
        folder = self.options.work / clip.name
        once = Once(model, clip.size)
        if not self.is_figures:
            if self.starts is None:
                compute_whole(model, clip, folder, once)
            else:
                compute_windows(model, clip, folder, once, self.starts)
            return {}
        kept = folder / "figures.json"
        found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
        with once:
            figures(model, clip, folder, found)
        if found:
            kept.write_text(json.dumps(found))
        return found


@cache
def _loaded(checkpoint: str) -> Model:
    torch.set_num_threads(1)
    return sam3ray.load(checkpoint, device="cpu")


def parts_of(options: argparse.Namespace, seed: int) -> list[Part]:
    """What must be there before the figures of a clip. Parts share nothing but the folder."""
    starts = starts_of(Clip(seed, *options.size, options.frames))
    half = (len(starts) + 1) // 2
    return [Part(options, seed), Part(options, seed, tuple(starts[:half])), Part(options, seed, tuple(starts[half:]))]


def all_figures(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of each clip, as they are done."""
    left: dict[int, int] = {}
    waiting: deque[Part] = deque()
    running: dict[Future[dict[str, Any]], Part] = {}
    for seed in range(FIRST_SEED + options.start, FIRST_SEED + options.clips):
        parts = [] if options.figures else parts_of(options, seed)
        left[seed] = len(parts)
        waiting.extend(parts or [Part(options, seed, is_figures=True)])
    # Spawned: torch's threads do not survive a fork.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                part = waiting.popleft()
                running[pool.submit(part.run)] = part
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part, found = running.pop(future), future.result()
                if part.is_figures:
                    yield f"hard-{part.seed}", found
                    continue
                left[part.seed] -= 1
                if not left[part.seed]:
                    waiting.appendleft(Part(options, part.seed, is_figures=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for what the windows give")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--from", dest="start", type=int, default=0, metavar="N", help="omit the first N clips")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--jobs", type=int, default=1, help="processes; each takes one thread and up to 7 GB")
    parser.add_argument("--figures", action="store_true", help="work on no more windows")
    parser.add_argument(
        "--json", type=Path, help="where to write the figures of all clips (figures.json in the folder)"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the table of figures from such a file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/long-clips.md")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.table:
        found = json.loads(options.table.read_text())
    elif not options.work:
        parser.error("give --work FOLDER, or --table FILE")
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        path = options.json or options.work / "figures.json"
        for name, of_clip in all_figures(options):
            if of_clip:
                found[name] = of_clip
                path.write_text(json.dumps(found))
                print(f"{name}: {len(found)} clips", file=sys.stderr, flush=True)
    if not found:
        parser.exit(1, "there are no figures\n")
    print(table(found), flush=True)
    if options.write:
        put("long-clips.md", "stitching benchmark", table(found))


if __name__ == "__main__":
    main()
