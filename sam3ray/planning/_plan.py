"""Works out what a job would do, without doing it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sam3ray.config import ConfigSource, JobConfig, load_config
from sam3ray.failures import ClipError, UserError
from sam3ray.guard.redact import redact
from sam3ray.manifest import read_manifest
from sam3ray.planning._estimate import Work, estimate, seconds_per_frame
from sam3ray.planning._foresight import foreseen, work_of
from sam3ray.planning._probing import Probed, probe_all
from sam3ray.planning._result import MAX_LISTED, Plan, Unreadable
from sam3ray.planning._sequential import sequential_reason
from sam3ray.planning._sharing import Loads
from sam3ray.planning._start import Start, prepare
from sam3ray.planning._visual import Masks, mask_sizes, prompt_problems
from sam3ray.planning._windows import LongClip, Windowing, windows_of
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip


@dataclass
class _Tally:
    frames: int = 0
    seconds: float = 0.0
    unknown: int = 0
    pixels: int = 0  # frames x pixels
    prompts: int = 0  # frames x phrases
    reasons: Counter[str] = field(default_factory=Counter)
    listed: list[Unreadable] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    long: list[LongClip] = field(default_factory=list)
    loads: Loads = field(default_factory=Loads)


def plan_job(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    *,
    sample: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Checks configuration and manifest, and probes every clip still to do. Writes nothing and loads no model.

    Args:
        config: a YAML file, a dict with the same keys, or a `JobConfig` (see `sam3ray.load_config`).
        overrides: `key.subkey=value` each, as with `--set`.
        sample: probe only this many clips, spread evenly over the manifest.
        on_progress: called from time to time with (videos probed, videos to probe).

    Raises:
        UserError: an argument or the manifest is wrong, or exemplars or visual prompts are outside their clips.
        JobStopped: the output cannot be listed.
    """
    if sample is not None and sample < 1:
        raise UserError(f"sample is {sample}; allowed: 1 and above, or None for every clip")
    config = load_config(config, overrides)
    clips = read_manifest(config.manifest, config)
    store = RunStore(config.output, config.storage)
    start = prepare(config, clips, store, patient=False)
    done, settled = _state_of_run(store, start)
    to_do = [clip for clip in clips if clip.clip_id not in done and clip.clip_id not in settled]
    probed = to_do if sample is None else to_do[:: max(1, -(-len(to_do) // sample))]
    uris = list(dict.fromkeys(clip.uri for clip in probed))
    report = None if on_progress is None else lambda n: on_progress(n, len(uris))
    facts = probe_all(uris, config.video, config.storage, on_progress=report)
    masks = mask_sizes(probed, config.storage)
    tally = _Tally()
    for clip in probed:
        _count(clip, facts[clip.uri], config, masks, tally)
    if tally.problems:
        raise UserError(tally.problems)
    scale = len(to_do) / max(1, len(probed))
    timed = seconds_per_frame(config, tally.prompts / max(1, tally.frames)) is not None
    sharing = tally.loads.sharing(config, scale, timed=timed)
    is_cut = sharing.mode == "parallel"
    work = Work(
        clips=round(scale * (len(probed) - sum(tally.reasons.values()))),
        frames=round(scale * tally.frames),
        prompts_per_frame=tally.prompts / max(1, tally.frames),
        pixels_per_frame=tally.pixels / max(1, tally.frames),
        extra_frames=sharing.extra_frames if is_cut else 0,
        pieces=round(scale * len(tally.loads.whole)) + sharing.windows if is_cut else 0,
    )
    return Plan(
        manifest=redact(config.manifest),
        output=redact(config.output),
        clips=len(clips),
        done=sum(clip.clip_id in done for clip in clips),
        settled=dict(Counter(settled[clip.clip_id] for clip in clips if clip.clip_id in settled)),
        to_do=len(to_do),
        frames=work.frames,
        hours=scale * tally.seconds / 3600,
        unknown_length=round(scale * tally.unknown),
        unreadable=dict(tally.reasons.most_common()),
        estimate=estimate(config, work),
        listed=tuple(tally.listed),
        refusals=_refusals(start),
        notices=() if start.unknown is None else (f"{start.unknown}; `run` needs it, and checks long phrases with it",),
        sampled=len(probed) if len(probed) < len(to_do) else None,
        asked={
            "phrases": sum(bool(clip.prompts) for clip in clips),
            "exemplars": sum(bool(clip.exemplars) for clip in clips),
            "visual prompts": sum(bool(clip.visual_prompts) for clip in clips),
        },
        sequential=dict(Counter(reason for clip in to_do if (reason := sequential_reason(clip, config)))),
        windows=_windowing(config, work.prompts_per_frame, tally, scale),
        sharing=sharing,
    )


def _windowing(config: JobConfig, prompts: float, tally: _Tally, scale: float) -> Windowing:
    frame_s, windows = seconds_per_frame(config, prompts), config.windows
    if frame_s is None:
        return Windowing(windows.mode, windows.seconds, None, None)
    longest = sorted(tally.long, key=lambda clip: (-clip.seconds, clip.clip_id))[:MAX_LISTED]
    frames = math.ceil(windows.seconds / frame_s)
    longer = sum(clip.seconds > windows.seconds for clip in tally.long)
    return Windowing(windows.mode, windows.seconds, round(scale * longer), frames, tuple(longest))


def _refusals(start: Start) -> tuple[str, ...]:
    if start.refusal is None:
        return ()
    of_old = any(each.startswith("engine_version") for each in start.differences)
    return tuple(start.differences) if start.differences and not of_old else (start.refusal,)


def _state_of_run(store: RunStore, start: Start) -> tuple[set[str], dict[str, str]]:
    """Ids that are done, and ids that failed for good with their reason."""
    if start.begun is None:
        return set(), {}
    done = store.done_ids()
    settled = {
        record.clip_id: record.reason.value
        for record in store.failures()
        if record.final and record.reason.is_charged and record.clip_id not in done
    }
    return done, settled


def _count(clip: Clip, facts: Probed, config: JobConfig, masks: Masks, tally: _Tally) -> None:
    failure = facts if isinstance(facts, ClipError) else foreseen(clip, facts, config)
    if isinstance(facts, ClipError) or failure is not None:
        assert failure is not None
        tally.reasons[failure.reason.value] += 1
        if len(tally.listed) < MAX_LISTED:
            reason, message = failure.reason.value, redact(failure.message)
            tally.listed.append(Unreadable(clip.clip_id, redact(clip.uri), reason, message))
        return
    tally.problems += prompt_problems(clip, facts, config, masks)
    work = work_of(clip, facts, config)
    if work is None:
        tally.unknown += 1
        return
    frames, seconds = work
    tally.frames += frames
    tally.seconds += seconds
    tally.pixels += frames * facts.width * facts.height
    everywhere = config.tracking.exemplars == "everywhere"
    shown = {each.name for each in clip.exemplars if not each.phrase} if everywhere else ()
    prompts = len(clip.prompts) + len(shown)
    tally.prompts += frames * prompts
    seconds_of_work = frames * (seconds_per_frame(config, prompts) or 0.0)
    sequential = sequential_reason(clip, config) or ""
    cut = tally.loads.add(frames, seconds_of_work, config, sequential=bool(sequential))
    if seconds_of_work > config.windows.seconds or cut:
        kept_in = windows_of(seconds_of_work, config.windows)
        tally.long.append(LongClip(clip.clip_id, round(seconds_of_work, 1), kept_in, sequential, cut))
