"""A short chaos; `python -m tests.e2e.chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.chaos import Settings, run_chaos

pytest.importorskip("moto.server")


@pytest.mark.timeout(1800)
def test_a_job_that_is_killed_all_over_gives_the_same_annotations(tmp_path: Path) -> None:
    settings = Settings(
        clips=10,
        kills=6,
        drivers=1,
        decoders=1,
        node=False,
        sick_actors=(2, 3),
        stalls=1,
        actors=2,
        frame_s=0.0,
        whole_by_driver=False,
    )
    report = run_chaos(settings, tmp_path)
    assert report.problems == []
    assert report.kills == {"long": 1, "actor": 2, "driver": 1, "decoder": 1, "stall": 1}
    assert report.resumed > 0, "a long clip went on from the window of the actor that was killed"
    assert report.sick["sick-actor"] > 0
    assert sum(report.faults.values()) > 0
