"""The versions that a run names: those of the engine and of its rules, raised when rows change, and the columns'."""

from __future__ import annotations

# Raised by one whenever the rows of any clip change: a rule, a threshold's meaning, an order of sums, an id. It is part
# of a run's fingerprint, so that a run is never continued by an engine with different rows.
#   1: sam3ray 0.1.0, whose runs do not name a version
#   2: runs name the version
#   3: phrases do not depend on each other; new objects are remembered at the size of the video; a removed object takes
#      back the conditioning frames that it gave
ENGINE_VERSION = 3

# Version of the rules that link objects of parallel windows, raised whenever they change. In the fingerprint of
# `windows.mode: parallel`.
LINKING_VERSION = 7

# Of the columns of annotations: `sam3ray.values.annotations.SCHEMA`.
SCHEMA_VERSION = 1
