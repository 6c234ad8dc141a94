"""Live video: cameras, what the model finds on them as they run, and a recording as a run.

_address (what may be watched, what its errors mean) -> _camera (a thread decodes everything into a slot that holds the
newest frame) -> _segments (which clip a frame belongs to) -> _live (the loop) -> _record (rows that can no longer be
retracted, a clip every ten minutes) and _encoder (its video)
"""

from sam3ray.cameras._camera import Camera, CameraFrame, check_source
from sam3ray.cameras._live import LiveFrame, LiveView, View, live, watch

__all__ = ["Camera", "CameraFrame", "LiveFrame", "LiveView", "View", "check_source", "live", "watch"]
