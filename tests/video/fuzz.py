"""Reads damaged videos, one after the other, and says how each ended. Run as a process that may die of it.

    python -m tests.video.fuzz FOLDER FIRST LAST

reads the seeds FIRST..LAST-1, each a mutation of one of the folder's files, and prints two lines for each: `try SEED`,
then `end SEED OUTCOME`, where the outcome is `frames` or one of the contract's reasons.
"""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

MEMORY_BYTES = 4 * 2**30
_EXTREMES = [
    bytes.fromhex(v) for v in ["00000000", "ffffffff", "7fffffff", "80000000", "00000001", "00010000", "0000ffff"]
]
_ATOMS = b"stsz stts ctts stco stsc elst avcC hvcC tkhd mdhd moof".split()


def mutate(originals: list[bytes], seed: int) -> bytes:
    """A damaged file. Most damage goes where containers keep their tables: the beginning and the end."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(originals))
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if len(data) < 8:
            break
        zone = rng.choice(["head", "tail", "any", "atom"])
        if zone == "atom":
            at = data.find(rng.choice(_ATOMS))
            at = min(len(data) - 5, at + rng.randrange(0, 40)) if at >= 0 else rng.randrange(len(data) - 4)
        else:
            low, high = {"head": (0, 600), "tail": (len(data) - 3000, len(data)), "any": (0, len(data))}[zone]
            at = rng.randrange(max(0, low), max(1, min(high, len(data)) - 4))
        kind = rng.choice(["flip", "byte", "extreme", "zeros", "noise", "cut", "drop", "repeat", "splice"])
        length = rng.choice([1, 4, 16, 200, 3000])
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            data[at] = rng.randrange(256)
        elif kind == "extreme":
            data[at : at + 4] = rng.choice(_EXTREMES)
        elif kind == "zeros":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "noise":
            data[at : at + length] = rng.randbytes(len(data[at : at + length]))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        else:
            other = rng.choice(originals)
            start = rng.randrange(len(other))
            data[at : at + length] = other[start : start + length]
    return bytes(data)


def outcome(path: Path, rng: random.Random) -> str:
    from sam3ray.config import VideoConfig
    from sam3ray.failures import ClipError
    from sam3ray.manifest import Clip
    from sam3ray.render import render_clip
    from sam3ray.video import VideoReader

    limits = VideoConfig(max_pixels=2048 * 2048, max_frames=500, max_duration_s=600, max_frame_decode_s=10)
    start_s = rng.choice([None, None, 0.3, 2.5])
    fps = rng.choice([None, None, 7.0])
    try:
        with VideoReader(path, start_s=start_s, fps=fps, limits=limits) as video:
            last = -1
            for frame in video:
                assert frame.index > last, f"frame {frame.index} after {last}"
                assert frame.image.shape == (video.info.height, video.info.width, 3)
                last = frame.index
            assert last >= 0
        if rng.random() < 0.2:
            render_clip(path, [], path.with_suffix(".mp4"), Clip("c", "c", start_s=start_s, fps=fps), limits=limits)
    except ClipError as error:
        return error.reason.value
    return "frames"


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    originals = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".md"]
    target = Path(sys.argv[4])
    for seed in range(first, last):
        target.write_bytes(mutate(originals, seed))
        print(f"try {seed}", flush=True)
        print(f"end {seed} {outcome(target, random.Random(seed))}", flush=True)


if __name__ == "__main__":
    main()
