"""Training of the embedded checkpoint: the detector on drawn images, then the tracker on drawn clips."""

from .layout import random_checkpoint, tiny_config

__all__ = ["random_checkpoint", "tiny_config"]
