"""Windows of a long clip that were worked on apart, made one clip again: each object keeps one id throughout.

segment_window      the rows of one window, and what its objects remember at its end
"""

from __future__ import annotations

from ._window import segment_window

__all__ = ["segment_window"]
