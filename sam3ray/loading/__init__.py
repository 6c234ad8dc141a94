"""A run's frames and masks for training and analysis, as a PyTorch `Dataset` or a Hugging Face dataset.

Both read rows and frames on demand, from any storage.
"""

from sam3ray.loading._hugging_face import hugging_face_dataset
from sam3ray.loading._torch import ByClip, RunDataset, collate_frames

__all__ = ["ByClip", "RunDataset", "collate_frames", "hugging_face_dataset"]
