"""Estimates what a job will cost. The assumed figures are printed with the result."""

from __future__ import annotations

from dataclasses import dataclass

from sam3ray.config import JobConfig
from sam3ray.display.readable import counted

OBJECTS_PER_FRAME = 5
BYTES_PER_ROW = 130  # measured: a 720p mask's RLE takes 79 bytes after zstd, the other columns about 50
BYTES_PER_FILE = 9_000  # schema and metadata of each clip's file

# Seconds per frame on one H100. For its own code Meta published 26.5, 9.8 and 1.6 frames/s with 1, 16 and 128 objects
# (chart of the SAM 3.1 release); this line fits them within 15 %.
H100_FRAME_S = 0.0335
H100_OBJECT_S = 0.0046
# Measured with the embedded checkpoint, float32 on one CPU thread: 51 ms with one phrase, 94 ms with three.
EMBEDDED_FRAME_S = 0.030
EMBEDDED_PROMPT_S = 0.0215


@dataclass(frozen=True)
class Work:
    """The work left to do: readable clips, with their frames, phrases and pixels.

    Attributes:
        extra_frames: frames that are processed once more, because clips are cut.
        pieces: clips, or windows of clips that are cut: no more actors than these are busy.
    """

    clips: int
    frames: int
    prompts_per_frame: float
    pixels_per_frame: float
    extra_frames: int = 0
    pieces: int = 0


@dataclass(frozen=True)
class Estimate:
    """Output size and computing time, with the assumptions behind them.

    Attributes:
        actor_hours: summed over all actors; None if no speed is known for this hardware.
        wall_hours: assuming that `cluster.actors.max` actors are always busy.
    """

    output_bytes: int
    device: str
    actor_hours: float | None
    wall_hours: float | None
    assumptions: tuple[str, ...]


def estimate(config: JobConfig, work: Work) -> Estimate:
    """A rough cost: trust its order of magnitude, not its digits."""
    assumptions = [
        f"{OBJECTS_PER_FRAME} objects per frame",
        f"{BYTES_PER_ROW} bytes per object and frame, {BYTES_PER_FILE:,} per clip (without annotated videos)",
    ]
    per_frame = seconds_per_frame(config, work.prompts_per_frame)
    if config.cluster.gpus_per_actor > 0:
        device, of = "GPU", "the speed published for Meta's code on an H100"
    else:
        device, of = "CPU", "the embedded checkpoint on one CPU core"
    if per_frame is None:
        assumptions.append("no speed is known for this checkpoint on CPUs")
    else:
        assumptions.append(f"{1 / per_frame:.{1 if device == 'GPU' else 0}f} frames/s per actor: {of}")
    if work.extra_frames:
        assumptions.append(f"{counted(work.extra_frames, 'frame')} processed once more, because clips are cut")
    hours = None if per_frame is None else (work.frames + work.extra_frames) * per_frame / 3600
    actors = min(config.cluster.actors.max, max(1, work.clips, work.pieces))
    if hours is not None:
        assumptions.append(f"{counted(actors, 'actor')} always busy")
    return Estimate(
        output_bytes=work.frames * OBJECTS_PER_FRAME * BYTES_PER_ROW + work.clips * BYTES_PER_FILE,
        device=device,
        actor_hours=hours,
        wall_hours=None if hours is None else hours / actors,
        assumptions=tuple(assumptions),
    )


def seconds_per_frame(config: JobConfig, prompts: float) -> float | None:
    """Seconds that one actor spends on a frame with this many phrases; None if no speed is known for this hardware."""
    if config.cluster.gpus_per_actor > 0:
        return (H100_FRAME_S + H100_OBJECT_S * OBJECTS_PER_FRAME) / min(1.0, config.cluster.gpus_per_actor)
    if config.model.checkpoint == "embedded":
        return EMBEDDED_FRAME_S + EMBEDDED_PROMPT_S * max(1.0, prompts)
    return None
