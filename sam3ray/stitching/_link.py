"""Links tracks of a clip's windows into objects. The result does not depend on the order in which windows were done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sam3ray.engine.returning import STEPS, accepted
from sam3ray.stitching import _overlap
from sam3ray.stitching._links import FORMAT, Hidden, Joint, LinkedTrack, Links
from sam3ray.stitching._tracks import Track, Window, tracks_of

MOST_LOST = 64  # objects of one phrase with which a new one is compared: those seen last


class Probe(Protocol):
    """Compares the memories of lost objects with tracks that appear later."""

    def knows(self, window: int, object_id: int) -> bool:
        """Whether the window has stored the object's memory."""
        ...

    def scores(self, lost: Sequence[tuple[int, int]], track: Track) -> Sequence[float]:
        """How well each lost object, by (window, id), is found again at the track: 0 (not at all) to 1."""
        ...


class Admission(Protocol):
    """When a detection counts as a new object: see `sam3ray.engine.rules`."""

    @property
    def published(self) -> bool: ...
    @property
    def new_det_thresh(self) -> float: ...
    @property
    def forget_after_frames(self) -> int | None: ...


@dataclass(frozen=True, eq=False)
class Birth:
    """A track that continues no earlier one.

    Attributes:
        apart: pairs (object of the previous window, object of this one) that were seen apart on shared frames.
        chain: the chain of a track that was already compared, in the previous window.
    """

    track: Track
    apart: frozenset[tuple[int, int]]
    chain: Chain | None = None


@dataclass
class Chain:
    """One object of the clip: its tracks, at most one in each window, in order."""

    tracks: list[Track] = field(default_factory=list)

    @property
    def head(self) -> Track | None:
        """The first track that is shown."""
        return next((each for each in self.tracks if each.is_shown), None)

    @property
    def tail(self) -> Track:
        return self.tracks[-1]

    @property
    def last_shown(self) -> Track | None:
        return next((each for each in reversed(self.tracks) if each.is_shown), None)


def link_windows(
    windows: Iterable[Window],
    probe: Probe | None = None,
    prompts: Sequence[str] = (),
    relink_after_s: float | None = None,
    rules: Admission | None = None,
) -> Links:
    """Links the windows of a clip. They may come in any order.

    1. On frames that two windows share, tracks are linked by the overlap of their masks (`_overlap`). These are the
       frames from the later window's start to the end of the earlier one's rows, up to which the clip shows them.
    2. The probe compares a track that continues no earlier one with the objects of its phrase that no window shows any
       more, those seen last first, at most `MOST_LOST` (`sam3ray.engine.returning`). Tracks that were seen apart on
       shared frames are never compared. If a track begins near the end of its window and is not found, it is compared
       again when the next window has shown more of it.

    3. A track that continues no earlier one and began below `new_det_thresh` exists only because its window did not
       know the objects of earlier windows. If these have objects of its phrase, it is hidden until its score is
       sufficient.

    Links are one to one, so a chain has at most one track in each window. Ids count from 1, in the order of the first
    frame that shows the object, the place of its phrase in `prompts`, window, and id in the window.

    Args:
        probe: None: link by shared frames only.
        relink_after_s: seconds after which a lost object is no longer compared. None: no limit.
        rules: rules under which the windows were processed. None: no track is hidden.

    Raises:
        ValueError: the windows do not follow each other, or rows do not belong to their window.
    """
    chains: list[Chain] = []
    joints: list[Joint] = []
    spans: list[tuple[int, int]] = []
    hidden: list[Hidden] = []
    shown = 0  # the end of the rows of earlier windows
    open_chains: dict[int, Chain] = {}  # chains of the previous window, by id in it
    young: list[Birth] = []  # births in the previous window, which ended too soon to compare them fully
    for window in sorted(windows, key=lambda each: each.cut.index):
        cut = window.cut
        if cut.index != len(spans) or (spans and not spans[-1][0] < cut.start <= shown <= cut.until):
            raise ValueError(f"window {cut.index} ({cut.start} to {cut.until}) does not follow the previous one")
        head = max((each.track.first + STEPS[-1] + 1 for each in young), default=0)
        tracks, end = tracks_of(window, shown, 0.0 if rules is None else rules.new_det_thresh, head)
        shared = _overlap.compare({i: chain.tail for i, chain in open_chains.items()}, tracks)
        found: dict[int, Chain] = {}
        for a, (b, iou) in shared.same.items():
            found[b] = open_chains[a]
            joints.append(Joint(cut.index - 1, a, cut.index, b, "overlap", iou))
        born: set[int] = set()
        if probe is not None and spans:
            births = [
                Birth(each, shared.apart) for each in tracks.values() if each.is_shown and each.object_id not in found
            ]
            goes_on = {id(chain): object_id for object_id, chain in found.items()}
            births += [each for each in young if id(each.chain) in goes_on]
            for each in births:
                if each.chain is not None:
                    _see_more(each.track, tracks[goes_on[id(each.chain)]])
            lost = [chain for chain in chains if id(chain) not in goes_on]
            born = {each.track.object_id for each in births if each.chain is None}
            for birth, chain, score in _recalled(births, lost, probe, relink_after_s):
                tail, track = chain.tail, birth.track
                joints.append(Joint(tail.window, tail.object_id, track.window, track.object_id, "memory", score))
                if birth.chain is None:
                    found[track.object_id] = chain
                    born.discard(track.object_id)
                else:
                    chain.tracks += birth.chain.tracks
                    chains = [each for each in chains if each is not birth.chain]
                    found[goes_on[id(birth.chain)]] = chain
                    hidden = [each for each in hidden if (each.window, each.track) != track.key]
        open_chains, young = {}, []
        earlier = tuple(chains)
        for object_id, track in sorted(tracks.items()):
            if object_id not in found and rules is not None and _is_doubtful(track, earlier, rules):
                until = track.sure if track.sure >= 0 else end
                hidden.append(Hidden(cut.index, object_id, until))
                if track.sure < 0:
                    continue
                track.first, track.first_s, track.score = track.sure_first, track.sure_first_s, track.sure_score
            chain = found.get(object_id) or Chain()
            if not chain.tracks:
                chains.append(chain)
            chain.tracks.append(track)
            track.head = {}  # masks are dropped once they are not needed
            if object_id in born and track.steps < len(STEPS) and track.last == end - 1:
                young.append(Birth(track, shared.apart, chain))
            else:
                track.probed = {}
            open_chains[object_id] = chain
        for chain in chains:
            if chain.tail.window < cut.index:
                chain.tail.tail = {}
        spans.append((cut.start, end))
        shown = end
    return Links(FORMAT, tuple(spans), _numbered(chains, prompts), tuple(sorted(joints, key=_place)), tuple(hidden))


def _is_doubtful(track: Track, earlier: Sequence[Chain], rules: Admission) -> bool:
    """Whether the clip in one piece would have required a better detection at the track's start: it then had objects of
    its phrase (of any phrase, by transformers' rules) that it had not all forgotten.
    """
    if track.score >= rules.new_det_thresh:
        return False
    for chain in earlier:
        head, last = chain.head, chain.last_shown
        if head is None or last is None or head.first >= track.begun:
            continue
        if rules.published and chain.tail.prompt != track.prompt:
            continue
        if rules.forget_after_frames is None or track.begun - last.last <= rules.forget_after_frames:
            return True
    return False


def _see_more(track: Track, continued: Track) -> None:
    """Adds the next window's part of a track."""
    for position, mask in sorted(continued.head.items()):
        if position > track.last and track.wants(position):
            track.take(position, mask)


def _recalled(
    births: Sequence[Birth], lost: Sequence[Chain], probe: Probe, relink_after_s: float | None
) -> list[tuple[Birth, Chain, float]]:
    """Finds births that are lost objects."""
    by_key = {chain.tail.key: chain for chain in lost}
    new = {birth.track.key: birth for birth in sorted(births, key=lambda birth: (birth.track.first, birth.track.key))}
    table: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
    for born, birth in new.items():
        near = _comparable(birth, lost, probe, relink_after_s)
        found = probe.scores(near, birth.track) if near and birth.track.probed else ()
        table[born] = {key: round(float(score), 6) for key, score in zip(near, found, strict=False)}
    pairs = accepted([(born, birth.track.first) for born, birth in new.items()], table)
    return [(new[born], by_key[key], table[born][key]) for born, key in pairs]


def _comparable(
    birth: Birth, lost: Sequence[Chain], probe: Probe, relink_after_s: float | None
) -> list[tuple[int, int]]:
    """Lost objects that may be the same as a birth, by their last track; those seen last come first."""
    found: list[tuple[int, tuple[int, int]]] = []
    track = birth.track
    for chain in lost:
        last, tail = chain.last_shown, chain.tail
        if last is None or tail.prompt != track.prompt or last.last >= track.first or tail.window >= track.window:
            continue
        if tail.window == track.window - 1 and (tail.object_id, track.object_id) in birth.apart:
            continue
        if relink_after_s is not None and track.first_s - last.last_s > relink_after_s:
            continue
        if probe.knows(*tail.key):
            found.append((-last.last, tail.key))
    return [key for _, key in sorted(found)[:MOST_LOST]]


def _numbered(chains: Sequence[Chain], prompts: Sequence[str]) -> tuple[LinkedTrack, ...]:
    rank: Mapping[str, int] = {prompt: n for n, prompt in reversed(list(enumerate(prompts)))}
    shown = [(head, chain) for chain in chains if (head := chain.head) is not None]
    shown.sort(key=lambda e: (e[0].first, rank.get(e[0].prompt, len(rank)), e[0].prompt, e[0].window, e[0].object_id))
    return tuple(
        sorted(
            (
                LinkedTrack(track.window, track.object_id, number, head.score)
                for number, (head, chain) in enumerate(shown, 1)
                for track in chain.tracks
            ),
            key=lambda each: (each.window, each.track),
        )
    )


def _place(joint: Joint) -> tuple[int, int, int, int]:
    return joint.to_window, joint.to_track, joint.window, joint.track
