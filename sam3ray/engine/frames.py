"""Decoded frames to model inputs, bit for bit as the checkpoint's own video processor makes them.

An `InputQueue` makes them in a thread of its own while the launching thread works on earlier frames. On a GPU it copies
each frame into pinned memory and resizes it in a stream of its own; whoever takes the image makes its own stream wait
for that, not itself. How many frames are under way is bounded by who pushes: `LookAhead` is given no more than the
session's lag.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from sam3ray.engine.transfer import mark, on_stream, side_stream, to_device
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.checkpoint import Checkpoint


class Preprocessor:
    """Resizes, rescales and normalises frames on the model's device.

    Args:
        checkpoint: whose processor says how, and whose device and dtype the result has.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._processor = checkpoint.processor.video_processor
        self._device = checkpoint.device
        self._dtype = checkpoint.dtype

    def __call__(self, frame: Frame) -> torch.Tensor:
        """uint8 RGB (height, width, 3) -> (1, 3, size, size) on the device, in the model's dtype."""
        processor = self._processor
        image = torch.from_numpy(frame.image)
        if self._device.type == "cuda":
            image = to_device(image, self._device)
        image = image.permute(2, 0, 1).unsqueeze(0)
        if processor.do_resize:
            image = processor.resize(image=image, size=processor.size, resample=processor.resample)
        image = processor.rescale_and_normalize(
            image,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            # as tuples: the processor caches by these arguments
            tuple(processor.image_mean),
            tuple(processor.image_std),
        )
        return image.to(self._dtype)


class InputQueue:
    """Prepares frames in the order in which they come.

    Args:
        at_once: no thread: `push` prepares the frame itself, and raises what is wrong with it.
    """

    def __init__(self, checkpoint: Checkpoint, *, at_once: bool = False) -> None:
        self._preprocess = Preprocessor(checkpoint)
        self._device = checkpoint.device
        self._stream = None if at_once else side_stream(checkpoint.device)
        self._at_once = at_once
        self._pool: ThreadPoolExecutor | None = None

    def push(self, frame: Frame) -> Callable[[], torch.Tensor]:
        """Returns what gives the image, (1, 3, size, size), in order for whatever is queued after.

        That waits for the thread, never for the device, and raises what preparing this very frame raised; the frames
        before it are not affected.
        """
        if self._at_once:
            image = self._preprocess(frame)
            return lambda: image
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare-frames")
        coming = self._pool.submit(self._prepare, frame)
        return lambda: _in_turn(*coming.result())

    def close(self) -> None:
        """Drop what has not begun, and end the thread. The queue may be used again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _prepare(self, frame: Frame) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        try:
            with on_stream(self._stream):
                image = self._preprocess(frame)
                return image, None if self._stream is None else mark(self._device)
        except Exception as error:
            # It surfaces frames later, in another thread: its kind decides the reason, the note says where.
            error.add_note(f"while frame {frame.index} was prepared for the model")
            raise


def _in_turn(image: torch.Tensor, ready: torch.cuda.Event | None) -> torch.Tensor:
    if ready is not None:
        stream = torch.cuda.current_stream(image.device)
        ready.wait(stream)
        image.record_stream(stream)
    return image
