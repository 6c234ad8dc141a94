from __future__ import annotations

import io
import json
import logging

import pytest

from sam3ray.failures import Failure, Reason
from sam3ray.job.logs import event, set_up_logging
from sam3ray.job.observe import Snapshot, reading_told
from sam3ray.job.progress import LineProgress, LiveProgress, clock, line_of, make_progress

SNAPSHOT = Snapshot(
    clips=60,
    done=12,
    failed={Reason.CRASHED: 2, Reason.NOT_FOUND: 1},
    running=3,
    actors=3,
    starting=1,
    frames=400,
    objects=31,
    seconds=20.0,
    eta_s=3725.0,
    rendered=4,
    rendering=2,
    render_failed=1,
    to_render=48,
    render_eta_s=61.0,
)


def test_a_line_says_all_of_it() -> None:
    assert line_of(SNAPSHOT) == (
        "12/60 clips, 3 failed (crashed 2, not_found 1), 3 running on 3 actors (+1 starting), 400 frames (20.0/s), "
        "31 objects, ETA 01:02:05; 4/55 videos, 1 failed, ETA 00:01:01"
    )
    assert line_of(Snapshot(clips=5)).endswith("0 frames (0.0/s), 0 objects, ETA -")
    assert line_of(Snapshot(clips=5, unplaced=2)).split(", ")[1] == "0 running on 0 actors (+2 waiting for room)"
    one = Snapshot(clips=1, running=1, actors=1, aside=1, frames=1, objects=1)
    assert line_of(one).startswith(
        "0/1 clips, 1 running on 1 actor (+1 node or GPU set aside), 1 frame (0.0/s), 1 object,"
    )
    assert line_of(Snapshot(rendered=2, rendering=1)) == "2/3 videos, ETA -"


def test_reading_a_long_listing_is_told() -> None:
    stream = io.StringIO()
    told = reading_told(LineProgress(stream), every_s=0.0)
    told(1000)
    told(21000)
    assert stream.getvalue().splitlines() == [
        "sam3ray: reading the state of the run: 1,000 entries so far",
        "sam3ray: reading the state of the run: 21,000 entries so far",
    ]


def test_days_are_told() -> None:
    assert clock(2 * 86_400 + 61) == "2d 00:01:01"


def test_lines_come_now_and_then_and_failures_at_once() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, every_s=1000.0)
    for _ in range(5):
        progress.update(Snapshot(clips=5, notice="only 2 actors fit"))
    progress.clip_failed(Failure("a", Reason.CRASHED, "died\nbadly", final=False))
    progress.clip_failed(Failure("a", Reason.CRASHED, "died\nbadly", final=True))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "sam3ray: only 2 actors fit"
    assert lines[2] == "sam3ray: a failed: crashed: died badly"


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_progress(io.StringIO()), LineProgress)
    terminal = Terminal()
    progress = make_progress(terminal)
    assert isinstance(progress, LiveProgress)
    progress.update(SNAPSHOT)
    progress.clip_failed(Failure("[red]x", Reason.CRASHED, "died", final=True))
    progress.close()
    shown = terminal.getvalue()
    assert "15/60 clips" in shown
    assert "20.0 frames/s" in shown
    assert "5/55 videos" in shown
    assert "[red]x: crashed: died" in shown  # data are not markup


@pytest.fixture
def logged() -> io.StringIO:
    logger = logging.getLogger("sam3ray")
    before = (logger.handlers[:], logger.level, logger.propagate)
    stream = io.StringIO()
    yield stream
    logger.handlers[:], logger.level, logger.propagate = before


def test_logs_are_json_with_clip_and_actor_and_no_secrets(logged: io.StringIO) -> None:
    set_up_logging("info", actor=7, stream=logged)
    log = logging.getLogger("sam3ray.job.running")
    event(log, logging.INFO, "clip done", clip_id="a", frames=3, nothing=None)
    event(log, logging.DEBUG, "not at this level", clip_id="a")
    log.warning("could not read https://user:hunter2@host/x")
    first, second = (json.loads(line) for line in logged.getvalue().splitlines())
    assert {k: first[k] for k in ("level", "message", "clip_id", "frames", "actor")} == {
        "level": "info",
        "message": "clip done",
        "clip_id": "a",
        "frames": 3,
        "actor": 7,
    }
    assert "nothing" not in first
    assert "hunter2" not in second["message"]


def test_quiet_by_default(logged: io.StringIO) -> None:
    set_up_logging(stream=logged)
    event(logging.getLogger("sam3ray.job.running"), logging.INFO, "clip done", clip_id="a")
    logging.getLogger("transformers").warning("something a user can do nothing about")
    assert logged.getvalue() == ""
