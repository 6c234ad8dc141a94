"""Decides which young objects are removed, and which are hidden for a while. Pure: works on ids.

Follows `_process_hotstart` of the code published with the weights; transformers' version is equivalent. Upstream keeps
lists of frame indices for all objects ever seen. This keeps counts for live objects, so that nothing grows with the
video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sam3ray.engine.rules import Rules


@dataclass
class Standing:
    """One object's record with the detector."""

    first_frame: int
    keep_alive: int
    unmatched_frames: int = 0
    is_confirmed: bool = False  # a visual prompt named it: it exists, whatever the detector says
    overlaps: dict[int, int] = field(default_factory=dict)  # older object -> frames on which both were one detection


class Hotstart:
    """The records of all live objects."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.standing: dict[int, Standing] = {}

    def __len__(self) -> int:
        return len(self.standing)

    def update(
        self,
        frame: int,
        new: Iterable[int],
        matched: Iterable[Sequence[int]],
        unmatched: Iterable[int],
        empty: Iterable[int],
    ) -> tuple[set[int], set[int]]:
        """Processes one frame.

        Args:
            frame: index of the frame, ascending from call to call.
            new: objects that a detection started on this frame.
            matched: for each detection, the objects that it confirms.
            unmatched: objects with a mask that no detection confirms.
            empty: objects without a mask.

        Returns:
            Objects removed for good, and objects hidden on this frame only.
        """
        rules = self._rules
        standing = self.standing
        for object_id in new:
            standing[object_id] = Standing(frame, rules.init_trk_keep_alive)
        groups = [list(group) for group in matched]
        for object_id in {object_id for group in groups for object_id in group}:
            mine = standing[object_id]
            mine.keep_alive = min(rules.max_trk_keep_alive, mine.keep_alive + 1)
        for object_id in unmatched:
            standing[object_id].unmatched_frames += 1
            self._lower(object_id)
        if rules.decrease_trk_keep_alive_for_empty_masklets:
            for object_id in empty:
                self._lower(object_id)

        for group in groups:
            if len(group) > 1:
                oldest = min(group, key=lambda object_id: standing[object_id].first_frame)
                for object_id in group:
                    if object_id != oldest:
                        overlaps = standing[object_id].overlaps
                        overlaps[oldest] = overlaps.get(oldest, 0) + 1

        removed, hidden = set(), set()
        for object_id, mine in standing.items():
            if mine.is_confirmed:
                continue
            is_young = self.is_young(mine.first_frame, frame)
            # Counts matter only from the first miss on: an object that was never missed is not judged by them.
            if mine.unmatched_frames and mine.unmatched_frames >= rules.hotstart_unmatch_thresh and is_young:
                removed.add(object_id)
            elif mine.unmatched_frames and mine.keep_alive <= 0 and not rules.suppress_unmatched_only_within_hotstart:
                hidden.add(object_id)
            if is_young and any(count >= rules.hotstart_dup_thresh for count in mine.overlaps.values()):
                removed.add(object_id)
            if not is_young:
                mine.overlaps.clear()  # can no longer remove it
        for object_id in removed:
            del standing[object_id]
        return removed, hidden

    def is_young(self, first_frame: int, frame: int) -> bool:
        """Whether an object first seen on `first_frame` can still be removed on `frame`."""
        return first_frame > frame - self._rules.hotstart_delay

    def confirm(self, object_id: int) -> None:
        """Marks an object that a visual prompt named: from now on it is neither removed nor hidden."""
        self.standing[object_id].is_confirmed = True

    def rename(self, object_id: int, to: int) -> None:
        """Gives an object another id: that of an object that is no longer here."""
        self.standing[to] = self.standing.pop(object_id)
        for each in self.standing.values():
            if object_id in each.overlaps:
                each.overlaps[to] = each.overlaps.get(to, 0) + each.overlaps.pop(object_id)

    def forget(self, object_id: int) -> None:
        """Drops an object that is no longer tracked."""
        del self.standing[object_id]

    def _lower(self, object_id: int) -> None:
        mine = self.standing[object_id]
        mine.keep_alive = max(self._rules.min_trk_keep_alive, mine.keep_alive - 1)
