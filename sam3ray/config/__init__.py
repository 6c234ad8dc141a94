"""The job's configuration: one YAML file, every key checked."""

from sam3ray.config._fingerprint import SCHEMA_VERSION, differences, fingerprint, manifest_digest, resolved_dtype
from sam3ray.config._load import ConfigSource, config_from_text, load_config, resolve_paths
from sam3ray.config._models import (
    ActorsConfig,
    ClusterConfig,
    JobConfig,
    LiveConfig,
    ModelConfig,
    RenderConfig,
    RetryConfig,
    TrackingConfig,
    VideoConfig,
    WindowsConfig,
)
from sam3ray.config._run_place import RunSource, run_place

__all__ = [
    "ConfigSource",
    "RunSource",
    "ActorsConfig",
    "ClusterConfig",
    "JobConfig",
    "LiveConfig",
    "ModelConfig",
    "RenderConfig",
    "RetryConfig",
    "TrackingConfig",
    "VideoConfig",
    "WindowsConfig",
    "SCHEMA_VERSION",
    "config_from_text",
    "differences",
    "fingerprint",
    "load_config",
    "manifest_digest",
    "resolve_paths",
    "resolved_dtype",
    "run_place",
]
