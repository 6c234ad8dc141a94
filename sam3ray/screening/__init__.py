"""What to look at first: objects and clips of a run, ranked by how likely they are wrong.

Pure figures of tracks are in `_signals`, what they weigh in `_weights`, storage and processes in `_run`.
"""

from sam3ray.screening._run import SCHEMA, Each, Triage, rank_clips, triage
from sam3ray.screening._signals import SIGNALS

__all__ = ["SCHEMA", "SIGNALS", "Each", "Triage", "rank_clips", "triage"]
