"""Turns decoded frames into model inputs, bit for bit like the checkpoint's own video processor.

An `InputQueue` does this in a separate thread, while the launching thread works on earlier frames. On a GPU it copies
each frame into pinned memory and resizes it in a separate stream. The consumer's stream waits for that, but not the
thread. The pusher limits the number of frames in the queue: `LookAhead` gets no more than the session's lag.
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
        checkpoint: gives the processor's settings, and the result's device and dtype.
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
        at_once: use no thread: `push` prepares the frame itself, and raises its errors.
    """

    def __init__(self, checkpoint: Checkpoint, *, at_once: bool = False) -> None:
        self._preprocess = Preprocessor(checkpoint)
        self._device = checkpoint.device
        self._stream = None if at_once else side_stream(checkpoint.device)
        self._at_once = at_once
        self._pool: ThreadPoolExecutor | None = None

    def push(self, frame: Frame) -> Callable[[], torch.Tensor]:
        """Returns a function that gives the image, (1, 3, size, size), ready for work queued later.

        The function waits for the thread, never for the device. It raises what preparing this frame raised; earlier
        frames are not affected.
        """
        if self._at_once:
            image = self._preprocess(frame)
            return lambda: image
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare-frames")
        coming = self._pool.submit(self._prepare, frame)
        return lambda: _in_turn(*coming.result())

    def close(self) -> None:
        """Drops frames not begun, and ends the thread. The queue may be used again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _prepare(self, frame: Frame) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        try:
            with on_stream(self._stream):
                image = self._preprocess(frame)
                return image, None if self._stream is None else mark(self._device)
        except Exception as error:
            # It surfaces some frames later in another thread. Its kind decides the reason; the note tells the place.
            error.add_note(f"while frame {frame.index} was prepared for the model")
            raise


def _in_turn(image: torch.Tensor, ready: torch.cuda.Event | None) -> torch.Tensor:
    if ready is not None:
        stream = torch.cuda.current_stream(image.device)
        ready.wait(stream)
        image.record_stream(stream)
    return image
