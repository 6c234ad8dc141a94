"""Model inputs, made in a thread of their own while the launching thread works on earlier frames.

On a GPU the thread copies each frame into pinned memory and resizes it in a stream of its own; whoever takes the image
makes its own stream wait for that, not itself. How many frames are under way is bounded by who pushes: `LookAhead` is
given no more than the session's lag.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.transfer import mark, on_stream, side_stream
from sam3ray.video import Frame

_Image = tuple[torch.Tensor, torch.cuda.Event | None]


class PreparedImage:
    """A frame's image on its way to the device."""

    def __init__(self, future: Future[_Image]) -> None:
        self._future = future

    def take(self) -> torch.Tensor:
        """(1, 3, size, size), in order for whatever is queued after. Waits for the thread, never for the device.

        Raises:
            Exception: what preparing this very frame raised; the frames before it are not affected.
        """
        image, ready = self._future.result()
        if ready is not None:
            stream = torch.cuda.current_stream(image.device)
            ready.wait(stream)
            image.record_stream(stream)
        return image


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

    def push(self, frame: Frame) -> PreparedImage:
        if self._at_once:
            done: Future[_Image] = Future()
            done.set_result((self._preprocess(frame), None))
            return PreparedImage(done)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare-frames")
        return PreparedImage(self._pool.submit(self._prepare, frame))

    def close(self) -> None:
        """Drop what has not begun, and end the thread. The queue may be used again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _prepare(self, frame: Frame) -> _Image:
        try:
            with on_stream(self._stream):
                image = self._preprocess(frame)
                return image, None if self._stream is None else mark(self._device)
        except Exception as error:
            # It surfaces frames later, in another thread: its kind decides the reason, the note says where.
            error.add_note(f"while frame {frame.index} was prepared for the model")
            raise
