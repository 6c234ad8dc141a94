"""How much a job will cost: arithmetic on figures that are printed with the result."""

from __future__ import annotations

from dataclasses import dataclass

from sam3ray.config import JobConfig

OBJECTS_PER_FRAME = 5
BYTES_PER_ROW = 130  # measured: RLE of a 720p mask 79 bytes after zstd, the other columns about 50
BYTES_PER_FILE = 9_000  # schema and metadata of a file per clip

# Seconds per frame on one H100: 26.5, 9.8 and 1.6 frames/s with 1, 16 and 128 objects are published for Meta's own
# code (chart of the SAM 3.1 release). They lie on this line within 15 %.
H100_FRAME_S = 0.0335
H100_OBJECT_S = 0.0046
# The checkpoint in the package, float32 on one CPU thread: 51 ms with one phrase, 94 ms with three.
EMBEDDED_FRAME_S = 0.030
EMBEDDED_PROMPT_S = 0.0215


@dataclass(frozen=True)
class Work:
    """What is to be done: readable clips and their frames, phrases and pixels."""

    clips: int
    frames: int
    prompts_per_frame: float
    pixels_per_frame: float


@dataclass(frozen=True)
class Estimate:
    """Output size and computing time, with the assumptions behind them.

    Attributes:
        actor_hours: of all actors together, None where nothing is known of such hardware.
        wall_hours: with `cluster.actors.max` actors all the time.
    """

    output_bytes: int
    device: str
    actor_hours: float | None
    wall_hours: float | None
    assumptions: tuple[str, ...]


def estimate(config: JobConfig, work: Work) -> Estimate:
    """A rough cost, good for orders of magnitude."""
    assumptions = [
        f"{OBJECTS_PER_FRAME} objects per frame",
        f"{BYTES_PER_ROW} bytes per object and frame, {BYTES_PER_FILE} per clip (annotated videos not counted)",
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
    hours = None if per_frame is None else work.frames * per_frame / 3600
    actors = min(config.cluster.actors.max, max(1, work.clips))
    if hours is not None:
        assumptions.append(f"{actors} actors busy throughout")
    return Estimate(
        output_bytes=work.frames * OBJECTS_PER_FRAME * BYTES_PER_ROW + work.clips * BYTES_PER_FILE,
        device=device,
        actor_hours=hours,
        wall_hours=None if hours is None else hours / actors,
        assumptions=tuple(assumptions),
    )


def seconds_per_frame(config: JobConfig, prompts: float) -> float | None:
    """Of one actor, with so many phrases; None where nothing is known of such hardware."""
    if config.cluster.gpus_per_actor > 0:
        return (H100_FRAME_S + H100_OBJECT_S * OBJECTS_PER_FRAME) / min(1.0, config.cluster.gpus_per_actor)
    if config.model.checkpoint == "embedded":
        return EMBEDDED_FRAME_S + EMBEDDED_PROMPT_S * max(1.0, prompts)
    return None
