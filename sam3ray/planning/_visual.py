"""Checks visual prompts against their videos before a job starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from sam3ray.config import JobConfig, VideoConfig
from sam3ray.failures import ClipError, UserError
from sam3ray.files import is_local, local_path
from sam3ray.planning._probing import Probed, probe_all
from sam3ray.prompts import MaskFile, check_prompts, describe, read_mask_file
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import ExemplarPrompt, MaskPrompt, VisualPrompt
from sam3ray.video import ClipFrames, Sampler, VideoInfo

THREADS = 16  # reading remote mask files is mostly waiting for the network

Masks = Mapping[str, MaskFile | ClipError]  # mask files by address, or why one cannot be read


def check_visual_prompts(clips: Sequence[Clip], config: JobConfig) -> dict[str, str]:
    """Rejects visual prompts and exemplars that do not fit their clips. Probes those clips.

    Unreadable videos pass: the job records why they fail.

    Returns:
        The mask files' SHA-256, by address.

    Raises:
        UserError: one sentence for each prompt that does not fit.
    """
    prompted = [clip for clip in clips if clip.visual_prompts or clip.exemplars]
    if not prompted:
        return {}
    facts = probe_all(list(dict.fromkeys(clip.uri for clip in prompted)), config.video, config.storage)
    masks = mask_sizes(prompted, config.storage)
    problems = [problem for clip in prompted for problem in prompt_problems(clip, facts[clip.uri], config, masks)]
    if problems:
        raise UserError(problems)
    return {address: mask.sha256 for address, mask in masks.items() if isinstance(mask, MaskFile)}


def mask_sizes(clips: Iterable[Clip], storage_options: Mapping[str, Any]) -> Masks:
    """Reads each mask file named by these clips' prompts once."""
    addresses = list(
        dict.fromkeys(p.png for clip in clips for p in clip.visual_prompts if isinstance(p, MaskPrompt) and p.png)
    )

    def read(address: str) -> MaskFile | ClipError:
        try:
            return read_mask_file(address, storage_options)._replace(rle="")
        except ClipError as error:
            return error

    if not addresses:
        return {}
    with ThreadPoolExecutor(min(THREADS, len(addresses))) as pool:
        return dict(zip(addresses, pool.map(read, addresses), strict=True))


def prompt_problems(clip: Clip, facts: Probed, config: JobConfig, masks: Masks) -> list[str]:
    """What is wrong with the clip's visual prompts and exemplars, one sentence each."""
    if isinstance(facts, ClipError) or not (clip.visual_prompts or clip.exemplars):
        return []
    found: list[str] = []
    prompts: list[VisualPrompt | ExemplarPrompt] = list(clip.exemplars)
    for prompt in clip.visual_prompts:
        if isinstance(prompt, MaskPrompt) and (mask := masks.get(prompt.png)) is not None:
            if isinstance(mask, ClipError):
                if mask.reason.is_charged:  # else storage failed, and the worker will try again
                    found.append(f"{describe(prompt)}: {mask.message}")
            else:
                prompt = replace(prompt, height=mask.height, width=mask.width)
        prompts.append(prompt)
    by_index = {prompt.frame_index for prompt in prompts if prompt.time_s is None}
    if by_index and max(by_index) >= (_nominal_count(facts) or 0):
        facts = replace(facts, frame_count=_true_frame_count(clip.uri, facts, max(by_index), config.video))
    found += check_prompts(prompts, facts, clip.start_s, clip.end_s, direction=config.tracking.direction)
    return [f"clip {clip.clip_id}: {problem}" for problem in found or _not_read(clip, facts, by_index, config)]


def _nominal_count(facts: VideoInfo) -> int | None:
    """The frame count that headers claim; it may be wrong."""
    if facts.frame_count is not None:
        return facts.frame_count
    return math.floor(facts.duration_s * facts.fps) if facts.duration_s is not None and facts.fps is not None else None


def _true_frame_count(uri: str, facts: VideoInfo, latest: int, limits: VideoConfig) -> int | None:
    """The true number of frames, because headers may be wrong and are not enough to reject a prompt.

    A local video is decoded to count them. A remote one is not fetched: a prompt far beyond the end is rejected, one
    near the end is left to the worker (None).
    """
    if is_local(uri):
        try:
            return ClipFrames(local_path(uri), limits=limits).frame_at(math.inf) + 1
        except ClipError:
            return None  # damaged: the worker records how
    if (count := _nominal_count(facts)) is None or facts.duration_is_estimate:
        return None
    if facts.duration_s is not None and facts.fps is not None:
        count = max(count, math.ceil(facts.duration_s * facts.fps))
    return count if latest >= count + max(2, count // 50) else None


def _not_read(clip: Clip, facts: VideoInfo, by_index: set[int], config: JobConfig) -> list[str]:
    """Prompts on frames that the clip's range or sampling omits.

    A constant frame rate is assumed at first. Rates may vary, so a local video is decoded before a prompt is rejected;
    a remote one is left to the worker.
    """
    fps = clip.fps or config.video.fps
    selects = clip.start_s or clip.end_s is not None or fps is not None
    if not by_index or not selects or facts.fps is None or not is_local(clip.uri):
        return []
    sampler = Sampler(facts.time_base, clip.start_s, clip.end_s, fps)
    latest, unit = min(max(by_index), config.video.max_frames), facts.fps * facts.time_base
    if by_index <= {i for i in range(latest + 1) if sampler.wants(round(i / unit))}:
        return []
    try:
        frames = ClipFrames(
            local_path(clip.uri), start_s=clip.start_s, end_s=clip.end_s, fps=fps, limits=config.video
        ).indices
    except ClipError:
        return []  # empty or damaged: the worker records how
    taken = set(frames)
    found = []
    for prompt in (*clip.visual_prompts, *clip.exemplars):
        if prompt.time_s is not None or prompt.frame_index in taken:
            continue
        nearest = min(frames, key=lambda index: abs(index - prompt.frame_index))
        found.append(
            f"{describe(prompt)}: the clip's range and sampling omit this frame; the nearest that is read is "
            f"{nearest}; allowed: one of the {len(frames)} from {frames[0]} to {frames[-1]}, or time_s"
        )
    return found
