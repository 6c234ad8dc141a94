"""How far a window runs on after its overlap, for the objects that it does not show there."""

from __future__ import annotations

from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.cutting import MOST_FOLLOWED, Cut

SEEN = 4  # rows from `until` on that show an object, after which it is no longer awaited


class Following:
    """Follows the objects of one window, by its rows, which become final while the window works on.

    Each object of the window's rows before `cut.until` is awaited until `SEEN` later rows have shown it, at most
    `MOST_FOLLOWED` rows after the last that did. The window's rows end when no object is awaited, at `cut.reach` at the
    latest.

    Rows come later than they could, which depends on threads and batches. So the end follows from their content alone.

    Attributes:
        stop: the end of the window's rows (exclusive); None until it is known.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._last: dict[int, int] = {}  # object -> the last row that shows it
        self._awaited: dict[int, int] = {}  # object -> rows that must still show it
        self.stop: int | None = None

    def take(self, position: int, row: FrameAnnotations) -> None:
        """Takes the window's next row."""
        cut = self._cut
        if self.stop is not None:
            return
        for each in row.objects:
            self._last[each.object_id] = position
        if position < cut.until - 1:
            return
        if position == cut.until - 1:
            self._awaited = dict.fromkeys(self._last, SEEN)
        else:
            shown = {each.object_id for each in row.objects}
            self._awaited = {key: left - (key in shown) for key, left in self._awaited.items()}
        self._awaited = {
            key: left for key, left in self._awaited.items() if left and position - self._last[key] < MOST_FOLLOWED
        }
        if not self._awaited or position + 1 >= cut.reach:
            self.stop = position + 1
