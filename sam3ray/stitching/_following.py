"""How long a window continues after its last row for the objects that it ends without, and where it finds them."""

from __future__ import annotations

from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.cutting import MOST_FOLLOWED, Cut

SEEN = 4  # rows after the window's own that show an object, after which it is no longer awaited


class Following:
    """Follows the objects of one window, by its rows: those that become final while the window works on.

    An object is awaited until `SEEN` rows from `cut.until` on have shown it, at most `MOST_FOLLOWED` rows after the
    last that did. When row p becomes final, the frames up to p + `hotstart_delay` - 1 have been worked on. Their rows
    count, too: hotstart no longer removes objects of the window's own rows. At most `MOST_FOLLOWED` frames after
    `cut.end` are worked on.

    Rows come later than they could, which depends on threads and batches. So everything here follows from their
    content alone.

    Attributes:
        until: the position behind the last frame that counts; None as long as the window needs another frame.
        found: object -> positions from `cut.until` to `until` on which it was seen, and its masks there, as run
            lengths. Also of objects that are new there.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._last: dict[int, int] = {}  # object -> the last row that shows it
        self._awaited: dict[int, int] = {}  # object -> rows that must still show it
        self.until: int | None = None
        self.found: dict[int, dict[int, str]] = {}

    def take(self, position: int, row: FrameAnnotations) -> None:
        """Takes the window's next row, its own included."""
        cut = self._cut
        if self.until is not None and position >= self.until:
            return
        for each in row.objects:
            self._last[each.object_id] = position
            if position >= cut.until:
                self.found.setdefault(each.object_id, {})[position] = each.rle
        if position < cut.until - 1 or self.until is not None:
            return
        if position == cut.until - 1:
            self._awaited = dict.fromkeys(self._last, SEEN)
        else:
            shown = {each.object_id for each in row.objects}
            self._awaited = {key: left - (key in shown) for key, left in self._awaited.items()}
        self._awaited = {
            key: left for key, left in self._awaited.items() if left and position - self._last[key] < MOST_FOLLOWED
        }
        worked = position + 1 + cut.end - cut.until
        if not self._awaited or worked >= cut.end + MOST_FOLLOWED:
            self.until = worked
