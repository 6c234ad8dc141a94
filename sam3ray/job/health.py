"""The health of nodes and GPUs, judged by consecutive failures.

A spot is a node, or one GPU of a node. Its strikes are the clips that have failed there since its last success, except
clips that also failed elsewhere: such a clip is itself at fault.

    well      -> paused     after some strikes: it gets no new clips, running ones continue
    paused    -> on trial   once a clip succeeds elsewhere (so the job is not at fault), or once nothing
                            is running: one clip at a time
    on trial  -> set aside  when that clip fails, others succeed elsewhere, and another spot is usable
    set aside -> on trial   after `ASIDE_S`, which doubles each time
    any       -> well       when a clip succeeds there, or its strikes turn out to be the clips' own

A failing spot among healthy ones thus affects its running clips and at most `STRIKES` + 1 more. If all spots fail
alike, none is set aside: the breaker handles that. Pure bookkeeping: no Ray, no clock of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from sam3ray.failures import Reason

ACTOR_STRIKES = 2  # consecutive failed clips after which a process is replaced
STRIKES = 3  # the same, after which a GPU or a node is paused
CONTENT_STRIKES = 10  # the limit for missing, forbidden or unreadable videos, of which there may be many
ASIDE_S = 60.0
ASIDE_CAP_S = 3600.0
_MOST_STRIKES = 50  # strikes kept; more would add nothing

# Faults of a process or its GPU. All others belong to the whole node: its network, disk, mounts, permissions.
OF_PROCESS = frozenset({Reason.INTERNAL, Reason.CRASHED, Reason.TIMED_OUT, Reason.OUT_OF_MEMORY, Reason.DEVICE})


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor's process runs.

    Attributes:
        node: its id.
        host: its name, for people.
        gpus: numbers of the process's GPUs on that node.
    """

    node: str = ""
    host: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def spots(self) -> tuple[str, ...]:
        """The spots of this place, the most specific first."""
        return (*(f"{self.node}/gpu{gpu}" for gpu in self.gpus), self.node)


class State(Enum):
    WELL = "well"
    PAUSED = "paused"
    TRIAL = "on trial"
    ASIDE = "set aside"


@dataclass(slots=True)
class _Spot:
    name: str  # for people
    is_gpu: bool
    state: State = State.WELL
    strikes: dict[int, tuple[str | int, Reason]] = field(default_factory=dict)  # clip -> (source, reason)
    last: str = ""  # error
    confirmed: bool = False  # a clip has succeeded elsewhere since the pause
    until: float = 0.0
    asides: int = 0
    running: int = 0
    proven: bool = False
    actors: set[int] = field(default_factory=set)

    @property
    def is_sick(self) -> bool:
        """Whether the spot has too many strikes. Strikes in one process do not count against its node."""
        firm = [(source, reason) for source, reason in self.strikes.values() if not reason.is_of_content]
        sources = {source for source, reason in firm if reason in OF_PROCESS}
        of_node = any(reason not in OF_PROCESS for _, reason in firm)
        enough = len(firm) >= STRIKES and (self.is_gpu or of_node or len(sources) > 1)
        return enough or len(self.strikes) >= CONTENT_STRIKES


@dataclass(frozen=True, slots=True)
class Change:
    """A spot that is paused, is set aside, or returns (on trial or well)."""

    spot: str
    name: str
    state: State
    why: str = ""
    until: float = 0.0


class Health:
    """Follows every actor, attempt and outcome, and determines which actors may get a clip."""

    def __init__(self) -> None:
        self._spots: dict[str, _Spot] = {}
        self._places: dict[int, Place] = {}
        self._nodes: frozenset[str] = frozenset()  # nodes of the cluster with room for an actor
        self._struck: dict[int, set[str]] = {}  # clip -> spots that it counts against
        self._changes: list[Change] = []

    # Queries of the scheduler

    def place_of(self, actor: int) -> Place:
        return self._places.get(actor, _NOWHERE)

    @property
    def nodes(self) -> frozenset[str]:
        """Usable nodes: they have room for an actor, or hold one, and are not set aside."""
        held = {place.node for place in self._places.values()}
        return frozenset(node for node in self._nodes | held if self._state(node) is not State.ASIDE)

    def may_run(self, actor: int) -> bool:
        """Whether the actor may get another clip now."""
        for key in self.place_of(actor).spots:
            spot = self._spots.get(key)
            if spot is None or spot.state is State.WELL:
                continue
            if spot.state is not State.TRIAL or spot.running > 0:
                return False
        return True

    def is_aside(self, actor: int) -> bool:
        return any(self._state(key) is State.ASIDE for key in self.place_of(actor).spots)

    def is_node_aside(self, actor: int) -> bool:
        return self._state(self.place_of(actor).node) is State.ASIDE

    def is_proven(self, place: Place) -> bool:
        """Whether any clip has succeeded on the actor's GPU or node."""
        spot = self._spots.get(place.spots[0])
        return spot is not None and spot.proven

    def was_seen(self, place: Place) -> bool:
        """Whether any attempt has ended at the actor's place."""
        spot = self._spots.get(place.spots[0])
        return spot is not None and (spot.proven or bool(spot.strikes))

    @property
    def unseen_nodes(self) -> frozenset[str]:
        """Nodes of the cluster that have never had an actor."""
        return self._nodes.difference(self._spots)

    def is_suspect(self, spot: str) -> bool:
        return self._state(spot) is not State.WELL

    @property
    def to_avoid(self) -> tuple[str, ...]:
        """Nodes to avoid for new actors, if there are others."""
        bad = [
            key
            for key, spot in self._spots.items()
            if not spot.is_gpu and spot.state in (State.ASIDE, State.PAUSED) and key
        ]
        return tuple(sorted(bad)) if self.nodes.difference(bad) else ()

    @property
    def aside(self) -> Mapping[str, str]:
        """Names of the nodes and GPUs that are set aside now, each with its reason."""
        return {spot.name: _why(spot) for spot in self._spots.values() if spot.state is State.ASIDE}

    def take_changes(self) -> list[Change]:
        changes, self._changes = self._changes, []
        return changes

    # Events

    def set_nodes(self, nodes: Iterable[str]) -> None:
        self._nodes = frozenset(nodes)

    def actor_placed(self, actor: int, place: Place) -> None:
        self._places[actor] = place
        for key in place.spots:
            name = place.host or place.node or "this machine"
            if key != place.node:
                name = f"GPU {key.rsplit('/gpu', 1)[1]} of {name}"
            self._spots.setdefault(key, _Spot(name, key != place.node)).actors.add(actor)

    def actor_gone(self, actor: int) -> None:
        place = self._places.pop(actor, None)
        if place is not None:
            for key in place.spots:
                self._spots[key].actors.discard(actor)

    def attempt_began(self, place: Place) -> None:
        for key in place.spots:
            if key in self._spots:
                self._spots[key].running += 1

    def attempt_ended(self, place: Place) -> None:
        for key in place.spots:
            if key in self._spots:
                self._spots[key].running -= 1

    def succeeded(self, place: Place) -> None:
        """A clip succeeded at the actor's place."""
        here = set(place.spots)
        for key, spot in self._spots.items():
            if key in here:
                spot.asides = 0
                spot.proven = True
                self._clear(key, spot)
            elif spot.state is not State.WELL:
                spot.confirmed = True
                if spot.state is State.PAUSED:
                    spot.state = State.TRIAL

    def failed(self, actor: int, place: Place, clip: int, reason: Reason, message: str, now: float) -> None:
        """`clip` failed at the actor's place, and has not failed elsewhere."""
        source: str | int = place.spots[0] if place.gpus else actor
        for key in place.spots:
            spot = self._spots.get(key)
            if spot is None or (spot.is_gpu and reason not in OF_PROCESS):
                continue
            if len(spot.strikes) < _MOST_STRIKES:
                spot.strikes[clip] = (source, reason)
                self._struck.setdefault(clip, set()).add(key)
            spot.last = f"{reason.value}: {message}"
            self._judge(key, spot, now)

    def refused(self, place: Place, message: str, now: float) -> None:
        """The storage or the hub rejected the node, regardless of the clip."""
        spot = self._spots.get(place.node)
        if spot is not None:
            spot.last = message
            self._suspect(place.node, spot, now)

    def own_fault(self, clip: int) -> None:
        """The clip failed at a second place: it counts against neither."""
        for key in self._struck.pop(clip, ()):
            spot = self._spots[key]
            spot.strikes.pop(clip, None)
            if spot.state in (State.PAUSED, State.TRIAL, State.ASIDE) and not spot.is_sick and not spot.asides:
                self._clear(key, spot)

    def forget_clip(self, clip: int) -> None:
        """The clip is settled, so its number is no longer used; its strikes remain."""
        self._struck.pop(clip, None)

    def lift(self) -> bool:
        """Nothing is running: paused spots are tried again, one clip at a time. True if there is any."""
        paused = [spot for spot in self._spots.values() if spot.state is State.PAUSED]
        for spot in paused:
            spot.state = State.TRIAL
        return bool(paused)

    def tick(self, now: float) -> None:
        for key, spot in self._spots.items():
            if spot.state is State.ASIDE and now >= spot.until:
                spot.state, spot.confirmed = State.TRIAL, True
                self._changes.append(Change(key, spot.name, State.TRIAL))

    # Decisions

    def _state(self, key: str) -> State:
        spot = self._spots.get(key)
        return State.WELL if spot is None else spot.state

    def _clear(self, key: str, spot: _Spot) -> None:
        for clip in spot.strikes:
            if clip in self._struck:
                self._struck[clip].discard(key)
        spot.strikes.clear()
        if spot.state is State.ASIDE:
            self._changes.append(Change(key, spot.name, State.WELL))
        spot.state, spot.confirmed = State.WELL, False

    def _pause(self, key: str, spot: _Spot) -> None:
        spot.state = State.PAUSED
        self._changes.append(Change(key, spot.name, State.PAUSED, _why(spot)))

    def _judge(self, key: str, spot: _Spot, now: float) -> None:
        if spot.state is State.WELL and spot.is_sick and self._has_other(key, spot):
            self._pause(key, spot)
        elif spot.state is State.TRIAL:
            self._suspect(key, spot, now)

    def _suspect(self, key: str, spot: _Spot, now: float) -> None:
        if spot.state is State.WELL:
            if self._has_other(key, spot):
                self._pause(key, spot)
        elif spot.state is State.TRIAL and spot.confirmed and self._has_other(key, spot):
            self._set_aside(key, spot, now)

    def _has_other(self, key: str, spot: _Spot) -> bool:
        if not spot.is_gpu:
            return len(self.nodes - {key}) > 0
        return any(
            other.is_gpu and other.actors and other.state is not State.ASIDE
            for name, other in self._spots.items()
            if name != key
        )

    def _set_aside(self, key: str, spot: _Spot, now: float) -> None:
        spot.state = State.ASIDE
        spot.asides += 1
        spot.until = now + min(ASIDE_CAP_S, ASIDE_S * 2.0 ** min(spot.asides - 1, 20))
        self._changes.append(Change(key, spot.name, State.ASIDE, _why(spot), spot.until))
        if spot.is_gpu:
            # If all GPUs of a node fail, the node itself fails.
            node = key.rsplit("/gpu", 1)[0]
            gpus = [other for name, other in self._spots.items() if other.is_gpu and name.startswith(f"{node}/gpu")]
            whole = self._spots[node]
            if all(gpu.state is State.ASIDE for gpu in gpus) and self._has_other(node, whole):
                whole.last = spot.last
                whole.strikes.update(spot.strikes)
                if whole.state is not State.ASIDE:
                    self._set_aside(node, whole, now)


_NOWHERE = Place()


def _why(spot: _Spot) -> str:
    count = len(spot.strikes)
    clips = f"{count} clips in a row failed there, " if count > 1 else ""
    return f"{clips}while others succeed elsewhere; the last error: {spot.last}"
