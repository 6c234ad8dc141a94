"""Live video: reads cameras, labels their frames as they come, and records the results as a run.

Frames pass through the modules in this order: `_address` opens a source and explains its errors; `_camera` decodes it
in a thread and keeps the newest frame; `_segments` assigns frames to clips; `_live` is the loop. `_record` records: it
gives processed frames to `_rows`, which writes what is final, received ones to `_encoder`, which makes the video, and
commits the files of both. All that happens in the `_background`.
"""

from sam3ray.cameras._camera import Camera, CameraFrame, check_source
from sam3ray.cameras._live import LiveFrame, LiveView, View, live, watch
from sam3ray.cameras._record import check_output

__all__ = [
    "Camera", "CameraFrame", "LiveFrame", "LiveView", "View", "check_output", "check_source", "live", "watch",
]  # fmt: skip
