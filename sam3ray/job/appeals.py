"""Decides about failures that would settle a clip, once no other work is left (`job.verdicts`).

A failure that the process may have caused (a crash, a hang, a defect, memory) settles a clip only after it occurred on
two nodes, if the job has two. It becomes final only when the place has completed another clip.
"""

from __future__ import annotations

from enum import Enum

from sam3ray.failures import Reason
from sam3ray.job.blame import Blame
from sam3ray.job.crew import Crew
from sam3ray.job.health import OF_PROCESS, Health
from sam3ray.job.placement import Placement
from sam3ray.job.verdicts import Verdict

MOST_PLACES = 3  # places at which a clip is tried before its failures stand


class Step(Enum):
    STANDS = "the clip is given up"
    ELSEWHERE = "a healthy actor tries it"
    OTHER_ACTOR = "another actor takes the place of the one that failed"


class Appeals:
    """Answers questions about the shared state; decides nothing itself."""

    def __init__(self, crew: Crew, health: Health, placement: Placement, blame: Blame) -> None:
        self._crew = crew
        self._health = health
        self._placement = placement
        self._blame = blame

    def may_be_heard(self, verdict: Verdict, *, process: bool) -> bool:
        """Whether the clip may be retried elsewhere, because the place where it failed is no longer trusted.

        `process`: only the process is not trusted, so another process is enough to retry a defect.
        """
        clip = verdict.record.clip
        fair = self._placement.has_other_spot(clip) or (process and verdict.record.reason is Reason.INTERNAL)
        return fair and len(self._blame.of(clip).spots) < MOST_PLACES

    def next_step(self, verdict: Verdict) -> Step:
        """Makes verdicts final, unless a place known to be healthy has not been tried."""
        clip = verdict.record.clip
        history = self._blame.of(clip)
        member = self._crew.get(verdict.actor)
        proven = self._health.is_proven(verdict.place) if verdict.place.gpus else bool(member and member.done)
        proven = proven and len(history.nodes) >= min(2, len(self._health.nodes))
        others = any(m.done and self._placement.is_new(clip, a) for a, m in self._crew.items())
        if not proven and others and self._placement.has_other_spot(clip) and len(history.spots) < MOST_PLACES:
            return Step.ELSEWHERE
        return Step.OTHER_ACTOR if self._wants_other_actor(verdict) else Step.STANDS

    def _wants_other_actor(self, verdict: Verdict) -> bool:
        """Whether the remaining actors cannot tell if the clip, its process or its node is at fault."""
        member = self._crew.get(verdict.actor)
        history = self._blame.of(verdict.record.clip)
        elsewhere = len(history.nodes) < 2 and len(self._health.nodes.difference(history.nodes)) > 0
        if verdict.record.reason in OF_PROCESS and elsewhere:
            return len(history.spots) < MOST_PLACES
        return elsewhere and not (member is not None and member.done) and len(history.spots) < 2
