"""What to check first: objects and clips of a run, ranked by how likely they are wrong.

`_signals` measures tracks, `_weights` weighs the signals, and `_run` reads storage in processes.
"""

from sam3ray.screening._run import SCHEMA, Each, Triage, rank_clips, triage
from sam3ray.screening._signals import SIGNALS

__all__ = ["SCHEMA", "SIGNALS", "Each", "Triage", "rank_clips", "triage"]
