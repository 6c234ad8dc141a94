"""The sections of the configuration file: names, types, ranges, defaults and what each key means."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from sam3ray.config._places import problem_of, same_place
from sam3ray.config._section import Section
from sam3ray.files import ambiguous_options
from sam3ray.files.web import PRIVATE_HOSTS
from sam3ray.guard.secrets import find_secrets, has_password
from sam3ray.values.exemplars import exemplar_items, parse_exemplars
from sam3ray.values.phrases import phrases_problem, split_phrases


def _as_phrases(value: Any) -> Any:
    """Turns a list into a tuple, and a text into phrases separated by `;`, as in a CSV manifest."""
    if isinstance(value, str):
        value = split_phrases(value)
    if not isinstance(value, list | tuple):
        return value  # the field's type check rejects it
    if all(isinstance(phrase, str) for phrase in value):
        phrases = tuple(phrase.strip() for phrase in value)
        if problem := phrases_problem(phrases):
            raise PydanticCustomError("phrases", "{problem}", {"problem": problem})
        return phrases
    return tuple(value)


Phrases = Annotated[tuple[str, ...], BeforeValidator(_as_phrases)]
# YAML and JSON have only lists.
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


def _as_exemplars(value: Any) -> Any:
    """Turns a list into a tuple of items like those of a manifest. A text is the address of a file."""
    if not isinstance(value, list | tuple):
        return value
    exemplars, wrong = parse_exemplars(list(value))
    if wrong:
        raise PydanticCustomError("items", "{problem}", {"problem": wrong[0]})
    return tuple(exemplar_items(exemplars))


Exemplars = Annotated[str | tuple[dict[str, Any], ...] | None, BeforeValidator(_as_exemplars)]


class ModelConfig(Section):
    """Which checkpoint to load, and how."""

    checkpoint: str = Field(
        "facebook/sam3",
        min_length=1,
        description="hub id, folder, or address on an object store; `embedded` is the small one in the package",
    )
    revision: str = Field("main", min_length=1, description="branch, tag or commit of a hub checkpoint")
    dtype: Literal["auto", "bfloat16", "float32", "autocast"] = Field(
        "auto",
        description="`auto`: bfloat16 on a GPU, float32 on a CPU; `autocast`: float32 weights, bfloat16 arithmetic",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="`auto`, `cpu`, `cuda`, `cuda:0`")
    image_size: int | None = Field(
        None,
        ge=32,
        le=4096,
        description="side of the square that frames are scaled to, a multiple of the patch; null: the checkpoint's own",
    )
    compile: bool = Field(False, description="torch.compile the layers of the vision backbone and the detector")
    cache_dir: str | None = Field(
        None,
        min_length=1,
        description="where each node keeps a checkpoint from an object store; null is `~/.cache/sam3ray/checkpoints`",
    )
    offline: bool = Field(False, description="never contact the hub; use only its cache on this machine")

    @model_validator(mode="after")
    def _embedded_has_no_revisions(self) -> Self:
        if self.checkpoint == "embedded" and self.revision != "main":
            raise _conflict(
                ("model.checkpoint", "model.revision"),
                f"model.revision is {self.revision!r}, but the `embedded` checkpoint is part of the package and has "
                "no revisions; omit model.revision",
            )
        return self


class TrackingConfig(Section):
    """Thresholds under the model's own names. Null keeps the checkpoint's value."""

    rules: Literal["published", "transformers"] = Field(
        "published", description="where Meta's published code and transformers differ, which of the two to follow"
    )
    score_threshold_detection: float | None = Field(None, ge=0, le=1, description="detections below are dropped")
    det_nms_thresh: float | None = Field(None, ge=0, le=1, description="IoU above which detections are duplicates")
    assoc_iou_thresh: float | None = Field(
        None, ge=0, le=1, description="minimum IoU to match a detection to a known object"
    )
    trk_assoc_iou_thresh: float | None = Field(
        None, ge=0, le=1, description="minimum IoU for a tracked object to count as detected again"
    )
    new_det_thresh: float | None = Field(
        None, ge=0, le=1, description="minimum score for a detection to start a new object"
    )
    recondition_on_trk_masks: bool | None = Field(None, description="recondition on the tracker's masks")
    hotstart_delay: int | None = Field(None, ge=0, le=1000, description="frames by which outputs are delayed")
    hotstart_unmatch_thresh: int | None = Field(
        None, ge=0, description="frames without a detection after which a young object is removed"
    )
    hotstart_dup_thresh: int | None = Field(
        None, ge=0, description="frames in which a young object may overlap an older one before it is removed"
    )
    suppress_unmatched_only_within_hotstart: bool | None = Field(
        None, description="hide undetected objects during hotstart only"
    )
    init_trk_keep_alive: int | None = Field(None, ge=-1000, le=1000, description="keep-alive count of a new object")
    max_trk_keep_alive: int | None = Field(None, ge=-1000, le=1000, description="upper end of the keep-alive count")
    min_trk_keep_alive: int | None = Field(None, ge=-1000, le=1000, description="lower end of the keep-alive count")
    suppress_overlapping_based_on_recent_occlusion_threshold: float | None = Field(
        None, ge=0, le=1, description="minimum IoU at which the more recently occluded of two objects is hidden"
    )
    decrease_trk_keep_alive_for_empty_masklets: bool | None = Field(
        None, description="an empty mask lowers the keep-alive count"
    )
    fill_hole_area: int | None = Field(
        None, ge=0, description="holes and specks up to this area are removed, in low-resolution mask pixels"
    )
    recondition_every_nth_frame: int | None = Field(
        None, ge=0, description="interval in frames at which objects are reconditioned on detections; 0 is never"
    )
    high_conf_thresh: float | None = Field(None, ge=0, le=1, description="minimum detection score for reconditioning")
    high_iou_thresh: float | None = Field(None, ge=0, le=1, description="minimum IoU for reconditioning")
    max_num_objects: int = Field(
        128,
        ge=1,
        description="objects tracked at once; new objects are admitted by score, and the number dropped is reported",
    )
    forget_after_frames: int | None = Field(
        None, ge=16, description="drop the state of objects not seen for this many frames; null keeps everything"
    )
    relink: bool = Field(
        False, description="when a lost object comes back as a new one, give it its old id; not in live sessions"
    )
    detect_every: int = Field(
        1, ge=1, le=1000, description="look for phrases on every n-th frame only; hotstart counts only these frames"
    )
    memory_frames: int | None = Field(
        None,
        ge=1,
        le=64,
        description="earlier frames that an object is compared with; null is the checkpoint's own number",
    )
    geometry_token: bool = Field(
        False, description="add the geometry encoder's token to every phrase, as published; not checked on real weights"
    )
    exemplars: Literal["published", "everywhere"] = Field(
        "published",
        description="use boxes of exemplars on their own frame only, or (sam3ray's addition) on all later ones as well",
    )
    direction: Literal["forward", "backward", "both"] = Field(
        "forward", description="direction in which objects are tracked from their visual prompts"
    )
    refine: Literal["onward", "throughout"] = Field(
        "onward", description="a later visual prompt changes its object from there on, or on all frames (two passes)"
    )
    object_batch: int = Field(64, ge=1, description="objects per tracker call")
    frame_batch: int = Field(1, ge=1, description="frames per vision-backbone call (look-ahead)")
    prompt_batch: int = Field(8, ge=1, description="phrases per detector call")
    offload_state: bool = Field(False, description="keep object memories in host memory: slower, less GPU memory")

    @model_validator(mode="after")
    def _keep_alive_in_order(self) -> Self:
        low, high = self.min_trk_keep_alive, self.max_trk_keep_alive
        if low is not None and high is not None and low > high:
            raise _conflict(
                ("tracking.min_trk_keep_alive", "tracking.max_trk_keep_alive"),
                f"tracking.min_trk_keep_alive is {low}, above tracking.max_trk_keep_alive, which is {high}",
            )
        return self


class VideoConfig(Section):
    """Sampling, and the limits that keep a hostile or broken video from taking a worker down."""

    fps: float | None = Field(
        None, gt=0, le=1000, description="sample at this rate; null is every frame. A clip's own `fps` wins"
    )
    folder_fps: float = Field(
        30.0, gt=0, le=1000, description="frame rate assumed for a folder of numbered frames, which has no timestamps"
    )
    max_pixels: int = Field(8192 * 8192, ge=1, description="width x height of a frame")
    max_duration_s: float = Field(6 * 3600.0, gt=0, description="length of a clip, seconds")
    max_size_bytes: int = Field(64 * 2**30, ge=1, description="size of a video file, bytes")
    max_frames: int = Field(1_000_000, ge=1, description="frames of a clip")
    max_open_bytes: int = Field(2**30, ge=2**26, description="memory for a file's tables, at 64 bytes per listed frame")
    max_frame_decode_s: float = Field(
        60.0, gt=0, description="seconds without a decoded frame before the clip fails as `over_limits`"
    )
    queue_frames: int = Field(8, ge=1, le=1024, description="frames decoded ahead")
    protocols: Names = Field(
        (),
        description="storage allowed for videos besides local paths, s3, gs, az, http and https, as in [sftp]",
    )
    cache_dir: str | None = Field(
        None, min_length=1, description="where remote videos are fetched to; null is a temporary folder"
    )
    cache_bytes: int = Field(20 * 2**30, ge=1, description="size of that cache, bytes")
    ranges_above_bytes: int | None = Field(
        256 * 2**20,
        ge=0,
        description="remote videos larger than this, in common containers, are read in parts, as they are needed, and "
        "not downloaded; null downloads every file",
    )


class ActorsConfig(Section):
    """How many model replicas run at once."""

    min: int = Field(
        1,
        ge=1,
        le=100_000,
        description="minimum; with `address: null` this machine must have room for it, a cluster may grow to it",
    )
    max: int = Field(8, ge=1, le=100_000, description="maximum")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise _conflict(
                ("cluster.actors.min", "cluster.actors.max"),
                f"cluster.actors.min is {self.min}, above cluster.actors.max, which is {self.max}",
            )
        return self


_OWN_KEYS = {"CPU": "cpus_per_actor", "GPU": "gpus_per_actor", "memory": "memory"}
_ADDRESS = re.compile(r"auto|local|(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\]):\d{1,5}")
# Kubernetes' syntax of labels. Ray would check it only when the first actor starts.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = re.compile(rf"(?:[a-zA-Z0-9][a-zA-Z0-9.-]{{0,252}}/)?{_LABEL}")
_LABEL_SELECTOR = re.compile(rf"!?in\({_LABEL}(?:, ?{_LABEL})*\)|!?{_LABEL}")


class ClusterConfig(Section):
    """Where the job runs, and what each actor may use."""

    address: str | None = Field(
        None,
        min_length=1,
        description="null starts Ray on this machine; else `auto`, or host:port of the head node",
    )
    actors: ActorsConfig = Field(ActorsConfig(), description="how many model replicas run at once")
    gpus_per_actor: float = Field(1, ge=0, le=64, description="fractions allowed below 1; 0 runs on CPUs")
    cpus_per_actor: float = Field(1, ge=0, le=1024, description="CPU cores that Ray reserves for each actor")
    memory: int | None = Field(None, ge=1, description="bytes of host memory that Ray reserves for each actor")
    resources: dict[str, float] = Field(
        default_factory=dict, description="custom resources of Ray per actor, as in `{video_decoder: 1}`"
    )
    accelerator_type: str | None = Field(
        None, min_length=1, description="only nodes with this accelerator, under Ray's name, as in `A100`"
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict,
        description="only nodes with these labels of Ray, as in `{ray.io/market-type: spot}`; also `!a`, `in(a, b)`",
    )
    start_timeout_s: float = Field(
        900.0, gt=0, description="seconds for an actor on a node to load its model before the start counts as failed"
    )
    place_timeout_s: float | None = Field(
        None,
        gt=0,
        description="seconds to wait for a node for the first actor before the job stops; null waits indefinitely",
    )
    keep_actors_s: float = Field(
        0.0,
        ge=0,
        description="seconds for which actors on a cluster outlive a driver that dies, until the next `run` takes them "
        "over; then they save a window and exit. 0: they end with their driver",
    )
    autoscaling: bool = Field(False, description="no effect: on a cluster the job always uses nodes that join")

    @property
    def alone(self) -> bool:
        """Whether the job starts its own Ray on this machine, which no node can join."""
        return self.address in (None, "local")

    @model_validator(mode="after")
    def _address_of_a_cluster(self) -> Self:
        if self.address is None or _ADDRESS.fullmatch(self.address):
            return self
        wrong = f"cluster.address is {self.address!r}; allowed: null, auto, or host:port of the head node"
        if "://" in self.address:
            wrong += ". From outside the cluster, submit the job with configs/deploy/submit.sh"
        raise _conflict(("cluster.address",), wrong)

    @model_validator(mode="after")
    def _known_to_ray(self) -> Self:
        for name, amount in self.resources.items():
            if name in _OWN_KEYS:
                key = f"cluster.resources.{name}"
                raise _conflict((key,), f"{key} is {amount:g}; set cluster.{_OWN_KEYS[name]} instead")
            if not name.strip() or amount <= 0 or (amount > 1 and amount != int(amount)):
                key = f"cluster.resources.{name}"
                raise _conflict((key,), f"{key} is {amount:g}; allowed: a fraction above 0, or a whole number")
        for name, wanted in self.label_selector.items():
            key = f"cluster.label_selector.{name}"
            if not _LABEL_KEY.fullmatch(name):
                raise _conflict((key,), f"{key}: {name!r} is no label; allowed: a name such as ray.io/region")
            if not _LABEL_SELECTOR.fullmatch(wanted):
                raise _conflict((key,), f"{key} is {wanted!r}; allowed: a, !a, in(a, b) or !in(a, b)")
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_actor > 1 and self.gpus_per_actor != int(self.gpus_per_actor):
            raise _conflict(
                ("cluster.gpus_per_actor",),
                f"cluster.gpus_per_actor is {self.gpus_per_actor}; allowed: 0, a fraction below 1, or a whole number",
            )
        return self


class RetryConfig(Section):
    """When to give up: on a clip, on an actor, on the job."""

    crashes: int = Field(3, ge=1, description="attempts at a clip on which workers crash")
    no_progress_s: float = Field(600.0, gt=0, description="seconds without progress before a worker is considered hung")
    storage: int = Field(8, ge=1, description="consecutive storage errors before the job stops")
    actor_starts: int = Field(3, ge=1, description="consecutive failed actor starts before the job stops")
    node_losses: int = Field(10, ge=1, description="times a clip may lose its node before it is recorded as failed")
    backoff_s: float = Field(
        1.0, ge=0, le=60, description="seconds to wait after the first storage error; doubles each time, up to 60"
    )


class LiveConfig(Section):
    """Live video: when a recording continues in a new clip."""

    segment_s: float = Field(600.0, gt=0, le=86_400, description="seconds of a recorded clip; a crash loses one")
    reset_after_s: float = Field(
        5.0, gt=0, description="a gap of more seconds than this starts a new clip, in which objects are detected again"
    )


def _off(value: Any) -> Any:
    """YAML reads `off` without quotes as false."""
    return "off" if value is False else value


class WindowsConfig(Section):
    """Long clips: their progress is saved from time to time, or they are shared among actors."""

    mode: Annotated[Literal["checkpoint", "parallel", "off"], BeforeValidator(_off)] = Field(
        "checkpoint",
        description=(
            "`checkpoint`: a clip whose worker dies continues from its last window; `parallel`: also, a clip of more "
            "than `frames` is cut into windows that several actors work on at once, for jobs that would leave GPUs "
            "idle; `off`: a clip whose worker dies starts over"
        ),
    )
    seconds: float = Field(60.0, gt=0, le=86400, description="seconds of work after which a window is kept")
    frames: int = Field(
        1800,
        ge=2,
        le=10_000_000,
        description="`parallel` only: frames of a window, after sampling. Shorter windows share better and link worse",
    )
    overlap: int = Field(
        16,
        ge=1,
        le=5_000_000,
        description=(
            "`parallel` only: frames that two windows share, by which their objects are linked; at most half of "
            "`frames`. 32 for 60 frames a second, or crowds"
        ),
    )

    @model_validator(mode="after")
    def _windows_overlap_in_pairs(self) -> Self:
        if 2 * self.overlap > self.frames:
            raise _conflict(
                ("windows.overlap", "windows.frames"),
                f"windows.overlap is {self.overlap}, more than half of windows.frames, which is {self.frames}: a frame "
                "would be in three windows",
            )
        return self


class RenderConfig(Section):
    """Annotated videos, made on CPUs as clips are finished."""

    enabled: bool = Field(False, description="render each clip when its annotations are committed")
    cpus_per_task: float = Field(1, gt=0, le=1024, description="CPU cores that Ray reserves for a rendering task")
    max_height: int | None = Field(
        None, ge=16, le=16384, description="scale down to this height in pixels; null keeps the source's"
    )
    every_frame: bool = Field(
        False,
        description="also draw the frames between two samples of a sampled clip, with the earlier one's masks",
    )


class JobConfig(Section):
    """The whole job."""

    manifest: str = Field(min_length=1, description="a .parquet, .csv or .jsonl file, a folder of videos, or a glob")
    output: str = Field(min_length=1, description="output folder of the run: a path or a storage address")
    prompts: Phrases = Field((), description="phrases for clips that have none of their own")
    visual_prompts: str | None = Field(
        None,
        min_length=1,
        description="a .parquet or .jsonl file of clicks, boxes and masks, matched to clips by `clip_id`",
    )
    exemplars: Exemplars = Field(
        None,
        description=(
            "concepts shown by boxes, for clips without exemplars of their own; or a .parquet or .jsonl file of them, "
            "matched by `clip_id`"
        ),
    )
    model: ModelConfig = Field(ModelConfig(), description="which checkpoint to load, and how")
    tracking: TrackingConfig = Field(TrackingConfig(), description="thresholds, under the model's own names")
    video: VideoConfig = Field(VideoConfig(), description="sampling and limits")
    cluster: ClusterConfig = Field(ClusterConfig(), description="where the job runs and what each actor may use")
    retry: RetryConfig = Field(RetryConfig(), description="when to give up")
    windows: WindowsConfig = Field(WindowsConfig(), description="long clips")
    render: RenderConfig = Field(RenderConfig(), description="annotated videos")
    live: LiveConfig = Field(LiveConfig(), description="live video")
    storage: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            "fsspec options such as `endpoint_url`, for one kind of store as in `s3: {endpoint_url: ...}`; "
            "put secrets in the environment, never here"
        ),
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        conflicts = [
            *_device_conflicts(self),
            *_secret_conflicts(self),
            *_place_conflicts(self),
            *_web_conflicts(self),
        ]
        addresses = [self.manifest, self.output, *_prompt_files(self)]
        addresses += [self.model.checkpoint] if "://" in self.model.checkpoint else []
        if problem := ambiguous_options(addresses, self.storage):
            conflicts.append((("storage",), problem))
        if not conflicts and same_place(self.output, self.manifest):
            conflicts.append((("manifest", "output"), f"output is the same place as manifest: {self.output!r}"))
        if conflicts:
            raise PydanticCustomError("conflict", "{text}", {"conflicts": conflicts, "text": _sentences(conflicts)})
        return self


def _prompt_files(config: JobConfig) -> list[str]:
    return [place for place in (config.visual_prompts, config.exemplars) if isinstance(place, str)]


Conflict = tuple[tuple[str, ...], str]  # the keys involved, dotted, and a sentence that names them


def _conflict(keys: tuple[str, ...], sentence: str) -> PydanticCustomError:
    return PydanticCustomError("conflict", "{text}", {"conflicts": [(keys, sentence)], "text": sentence})


def _sentences(conflicts: list[Conflict]) -> str:
    return "; ".join(sentence for _, sentence in conflicts)


def _device_conflicts(config: JobConfig) -> list[Conflict]:
    device, gpus = config.model.device, config.cluster.gpus_per_actor
    keys = ("model.device", "cluster.gpus_per_actor")
    if device == "cpu" and gpus > 0:
        return [(keys, f"model.device is 'cpu', but cluster.gpus_per_actor is {gpus:g}; set it to 0 to run on CPUs")]
    if device.startswith("cuda") and gpus == 0:
        return [(keys, f"model.device is {device!r}, but cluster.gpus_per_actor is 0; allowed: a number above 0")]
    return []


def _place_conflicts(config: JobConfig) -> list[Conflict]:
    places = {
        "manifest": config.manifest,
        "output": config.output,
        "visual_prompts": config.visual_prompts,
        "exemplars": config.exemplars if isinstance(config.exemplars, str) else None,
        "video.cache_dir": config.video.cache_dir,
        "model.cache_dir": config.model.cache_dir,
        "model.checkpoint": config.model.checkpoint if "://" in config.model.checkpoint else None,
    }
    return [
        ((key,), problem)
        for key, place in places.items()
        if place and (problem := problem_of(key, place, config.video.protocols))
    ]


def _web_conflicts(config: JobConfig) -> list[Conflict]:
    conflicts: list[Conflict] = []
    for kind in ("http", "https"):
        options = config.storage.get(kind)
        if isinstance(options, dict) and not isinstance(options.get(PRIVATE_HOSTS, True), bool):
            key = f"storage.{kind}.{PRIVATE_HOSTS}"
            conflicts.append(((key,), f"{key} is {options[PRIVATE_HOSTS]!r:.40}; allowed: true or false"))
    return conflicts


def _secret_conflicts(config: JobConfig) -> list[Conflict]:
    """Finds secrets, which would end up in run.json and in logs. The sentences never repeat a value."""
    advice = "put it in the environment, a profile or an instance role (see docs/configuration.md)"
    conflicts: list[Conflict] = [
        ((f"storage.{key}",), f"storage.{key} looks like a secret, which a configuration must not contain; {advice}")
        for key in find_secrets(config.storage)
    ]
    addresses = {
        "manifest": config.manifest,
        "output": config.output,
        "visual_prompts": config.visual_prompts,
        "exemplars": config.exemplars if isinstance(config.exemplars, str) else None,
        "model.checkpoint": config.model.checkpoint,
        "cluster.address": config.cluster.address,
        "video.cache_dir": config.video.cache_dir,
    }
    for key, uri in addresses.items():
        if uri is not None and has_password(uri):
            conflicts.append(((key,), f"{key} contains a user name and password; {advice}"))
    return conflicts
