"""The job's configuration: one YAML file, every key checked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Which checkpoint to load, and how."""

    checkpoint: str = "facebook/sam3"  # hub id or folder; `embedded` is the tiny one in the package
    revision: str = "main"
    dtype: Literal["auto", "bfloat16", "float32", "autocast"] = "auto"
    device: str = "auto"  # auto, cpu, cuda, cuda:0
    compile: bool = False  # torch.compile the vision backbone
    offline: bool = False  # never ask the hub


class TrackingConfig(_Section):
    """Thresholds under the model's own names. None keeps the checkpoint's value."""

    rules: Literal["published", "transformers"] = "published"
    score_threshold_detection: float | None = Field(None, ge=0, le=1)
    det_nms_thresh: float | None = Field(None, ge=0, le=1)
    assoc_iou_thresh: float | None = Field(None, ge=0, le=1)
    trk_assoc_iou_thresh: float | None = Field(None, ge=0, le=1)
    new_det_thresh: float | None = Field(None, ge=0, le=1)
    recondition_on_trk_masks: bool | None = None
    hotstart_delay: int | None = Field(None, ge=0)
    hotstart_unmatch_thresh: int | None = Field(None, ge=0)
    hotstart_dup_thresh: int | None = Field(None, ge=0)
    suppress_unmatched_only_within_hotstart: bool | None = None
    init_trk_keep_alive: int | None = None
    max_trk_keep_alive: int | None = None
    min_trk_keep_alive: int | None = None
    suppress_overlapping_based_on_recent_occlusion_threshold: float | None = None
    decrease_trk_keep_alive_for_empty_masklets: bool | None = None
    fill_hole_area: int | None = Field(None, ge=0)
    recondition_every_nth_frame: int | None = Field(None, ge=0)
    high_conf_thresh: float | None = Field(None, ge=0, le=1)
    high_iou_thresh: float | None = Field(None, ge=0, le=1)
    max_num_objects: int = Field(128, ge=1)  # the best by score are kept; how many were dropped is recorded
    forget_after_frames: int | None = Field(None, ge=16)  # drop the state of tracks gone for so long
    object_batch: int = Field(64, ge=1)  # objects per tracker call
    frame_batch: int = Field(1, ge=1)  # frames per vision-backbone call (look-ahead)


class VideoConfig(_Section):
    """Sampling, and the limits that keep a hostile or broken video from taking a worker down."""

    fps: float | None = Field(None, gt=0)
    max_pixels: int = Field(8192 * 8192, ge=1)  # width x height of a frame
    max_duration_s: float = Field(6 * 3600.0, gt=0)
    max_size_bytes: int = Field(64 * 2**30, ge=1)
    max_frames: int = Field(1_000_000, ge=1)
    max_frame_decode_s: float = Field(60.0, gt=0)  # no frame within so many seconds: over the limits
    queue_frames: int = Field(8, ge=1)  # frames decoded ahead
    cache_dir: str | None = None  # where remote videos are fetched to; None: a temporary folder
    cache_bytes: int = Field(20 * 2**30, ge=1)


class ActorsConfig(_Section):
    min: int = Field(1, ge=1)
    max: int = Field(8, ge=1)


class ClusterConfig(_Section):
    address: str | None = None  # None: a Ray of its own on this machine; else `auto` or an address
    actors: ActorsConfig = ActorsConfig()
    gpus_per_actor: float = Field(1, ge=0)  # fractions allowed; 0 runs on CPUs
    cpus_per_actor: float = Field(1, ge=0)
    start_timeout_s: float = Field(900.0, gt=0)  # an actor that has not loaded its model by then has failed


class RetryConfig(_Section):
    crashes: int = Field(3, ge=1)  # tries at a clip on which workers die
    no_progress_s: float = Field(600.0, gt=0)  # no frame finished for so long: the worker hangs
    storage: int = Field(8, ge=1)  # storage errors in a row that stop the job
    actor_starts: int = Field(3, ge=1)  # failed actor starts in a row that stop the job


class RenderConfig(_Section):
    enabled: bool = False
    cpus_per_task: float = Field(1, gt=0)
    max_height: int | None = Field(None, ge=16)  # scale down to this height; None keeps the source's


class JobConfig(_Section):
    """The whole job."""

    manifest: str
    output: str
    prompts: tuple[str, ...] = ()
    model: ModelConfig = ModelConfig()
    tracking: TrackingConfig = TrackingConfig()
    video: VideoConfig = VideoConfig()
    cluster: ClusterConfig = ClusterConfig()
    retry: RetryConfig = RetryConfig()
    render: RenderConfig = RenderConfig()
    storage: dict[str, Any] = Field(default_factory=dict)  # fsspec options; secrets come from the environment
