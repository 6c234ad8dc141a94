"""How the page is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sam3ray.config import ClusterConfig, LiveConfig, ModelConfig, TrackingConfig, VideoConfig


@dataclass(frozen=True)
class AppOptions:
    """How the page is started.

    Attributes:
        sources: runs, videos, folders, globs or manifests. Empty: clips that the page draws itself.
        model: the checkpoint and how it is loaded.
        cluster: the model runs on a GPU of this Ray cluster; None: on this machine, without Ray.
        tracking: thresholds that a try starts from.
        host, port: address to listen on; port 0 picks a free one.
        browser: whether to open one.
        author: of corrections, until a reviewer gives a name; None is the name of the user.
        storage: fsspec options.
        video: limits of every video, uploads included.
        max_upload_bytes: of one uploaded video; `max_uploads_bytes` of all together.
        camera: a live source that the server watches, besides the visitors' webcams; with these `phrases` at first.
        listen: the camera pushes to this address.
        every_frame: process every frame of a file instead of playing it at its own pace.
        record: a run folder to record the camera into; `record_video`: its frames, too.
        live: when a recording begins a new clip.
        hang_s: seconds without progress after which the model's process counts as hung, and is restarted. Reading a
            checkpoint over a slow network is progress (`_pulse`).
    """

    sources: tuple[str, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    cluster: ClusterConfig | None = None
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    host: str = "127.0.0.1"
    port: int = 0
    browser: bool = True
    author: str | None = None
    storage: Mapping[str, Any] = field(default_factory=dict)
    video: VideoConfig = field(default_factory=VideoConfig)
    max_upload_bytes: int = 4 * 2**30
    max_uploads_bytes: int = 16 * 2**30
    camera: str | None = None
    listen: bool = False
    every_frame: bool = False
    phrases: tuple[str, ...] = ()
    record: str | None = None
    record_video: bool = True
    live: LiveConfig = field(default_factory=LiveConfig)
    hang_s: float = 120.0
