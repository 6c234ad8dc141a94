"""A session saved and loaded: the rows that follow are those of a session that was never interrupted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from sam3ray.config import TrackingConfig
from sam3ray.engine.engine import Engine
from sam3ray.engine.header import StateError
from sam3ray.engine.policy import Policy
from sam3ray.engine.session import Session
from sam3ray.engine.stored import StateTensors, digest_of
from sam3ray.prompts import PointPrompt
from tests.engine import saved_session
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.prompted import WORKFLOWS, on_frame
from tests.engine.tiny import small_model

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 22
FRAMES = clip(LENGTH)
CLICK, BOX, MASK = (on_frame(WORKFLOWS[name].prompts[0], 3, 7) for name in ("click", "box", "mask"))
PROMPTS = [on_frame(CLICK, 2, 7), on_frame(BOX, 5, 8), on_frame(MASK, 9, 9), on_frame(CLICK, 11, 8)]
PLACES = np.random.default_rng(3).uniform(0.15, 0.85, (LENGTH, 4, 2))


def script(frame: int, prompt: int) -> list[Found]:
    """Objects that come all the time; most are never found again, and go within hotstart; some are hidden first."""
    lasting = [Found((0.2 + 0.3 * prompt, 0.25), 0.12, 0.9, 6.0), Found((0.7, 0.3 + 0.3 * prompt), 0.15, 0.85, 6.0)]
    return lasting + [Found((y, x), 0.08, 0.72) for y, x in PLACES[frame % LENGTH][: frame % 2]]


def engine(seed: int = 0, **tracking: Any) -> Engine:
    values = {
        "hotstart_delay": 6,
        "hotstart_unmatch_thresh": 4,
        "hotstart_dup_thresh": 3,
        "recondition_every_nth_frame": 3,
        "high_conf_thresh": 0.0,
        "high_iou_thresh": 0.1,
        "suppress_unmatched_only_within_hotstart": False,
        "init_trk_keep_alive": 2,
    }
    detector = ScriptedDetector(script, small_model(0).low_res_mask_size)
    return Engine(checkpoint(small_model(seed, 1.0)), TrackingConfig(**(values | tracking)), detector)


def begin(one: Engine, policy: str) -> Session:
    return Session(one, HEIGHT, WIDTH, Policy.named(policy))


def row(result: Any) -> tuple[Any, ...]:
    return result.annotations, result.tentative, result.retracted


def run(path: Path, policy: str, phrases: list[str], cuts: set[tuple[int, int]], **tracking: Any) -> list[Any]:
    """Rows of all passes; at each (pass, frame) of `cuts` the session is saved, dropped and loaded by another one."""
    session = begin(engine(**tracking), policy)
    for prompt in (*phrases, *PROMPTS):
        session.add(prompt)
    out: list[Any] = []
    while True:
        number, walk, first = session.pass_number, session.walk, session.next_position
        order = FRAMES[: first + 1][::-1] if walk.reverse and first > 0 else FRAMES[::-1] if walk.reverse else FRAMES
        at = 0
        while at < len(order) and not session.is_satisfied:
            if (number, at) in cuts:
                cuts = cuts - {(number, at)}
                session.save(path)
                session.close()
                session = begin(engine(**tracking), policy)
                session.load(path)
                at = abs(session.next_position - first)
                continue
            out += map(row, session.step(order[at]))
            at += 1
        out += map(row, session.finish())
        if not session.next_pass():
            return out


# As many rules as there are ways: memories on the host, hidden and removed objects, phrases, clicks, both, all passes.
# Every direction with and without phrases goes through tests/engine/test_windows.py, too.
WAYS = [
    ("whole", ["red", "blue"], {}, 1),
    ("live", ["red", "blue"], {"rules": "transformers", "offload_state": True}, 1),
    ("both", ["red"], {"offload_state": True}, 2),
    ("refined", [], {"rules": "transformers"}, 2),
]


@pytest.mark.parametrize(("policy", "phrases", "tracking", "passes"), WAYS)
def test_the_rows_that_follow_are_those_of_an_uninterrupted_run(tmp_path, policy, phrases, tracking, passes):
    expected = run(tmp_path / "state", policy, phrases, set(), **tracking)
    assert any(frame.objects for frame, _, _ in expected)
    cuts = {(n, at) for n in range(passes) for at in (0, 4, 17, 20)}
    assert run(tmp_path / "state", policy, phrases, cuts, **tracking) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_what_is_asked_for_and_not_yet_worked_on_is_part_of_the_state(tmp_path):
    def rows(cut: bool) -> list[Any]:
        session = begin(engine(), "whole")
        session.add("red")
        out = [row(each) for frame in FRAMES[:8] for each in session.step(frame)]
        session.add("blue")
        session.add(PointPrompt(((50.0, 40.0),), (True,), 9, 50, label="it"))
        session.add(PointPrompt(((10.0, 70.0),), (False,), 11, 50))  # a refinement that says only what it is not
        out += [row(each) for frame in FRAMES[8:12] for each in session.step(frame)]
        session.remove("red")
        at = 12
        if cut:
            session.save(tmp_path / "state")
            session = begin(engine(), "whole")
            session.load(tmp_path / "state")
            at = session.next_position
            assert at == 0, "16 frames are needed before the first is worked on"
        out += [row(each) for frame in FRAMES[at:] for each in session.step(frame)]
        return out + [row(each) for each in session.finish()]

    expected = rows(False)
    assert {o.prompt for frame, _, _ in expected for o in frame.objects} == {"red", "blue", "it"}
    assert rows(True) == expected


def test_a_fresh_process_goes_on(tmp_path):
    state = tmp_path / "state"
    whole = saved_session.rows(state, save_at=20)
    command = [sys.executable, saved_session.__file__, str(state)]
    rest = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert rest
    assert [each[1:] for each in rest] == [each[1:] for each in whole[-len(rest) :]]
    assert len(rest) >= sum(given >= 20 for given, _, _ in whole)


class TestRefusals:
    @pytest.fixture(scope="class")
    def saved(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("state") / "state.safetensors"
        session = begin(engine(), "live")
        for prompt in ("red", *PROMPTS):
            session.add(prompt)
        for frame in FRAMES[:7]:
            session.step(frame)
        session.save(path)
        return path

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"seed": 3}, "was saved with weights "),
            ({"new_det_thresh": 0.66}, r"was saved with tracking\.new_det_thresh None, this session has 0\.66"),
            ({"rules": "transformers"}, r"was saved with tracking\.rules 'published'"),
        ],
    )
    def test_other_weights_and_rules(self, saved, change, sentence):
        with pytest.raises(StateError, match=sentence) as caught:
            begin(engine(**change), "live").load(saved)
        assert caught.value.is_foreign

    def test_other_versions(self, saved, monkeypatch):
        monkeypatch.setattr("sam3ray.engine.state.ENGINE_VERSION", 99)
        with pytest.raises(StateError, match=r"was saved with engine [0-9]+, this session has 99") as caught:
            begin(engine(), "live").load(saved)
        assert caught.value.is_foreign

    def test_batches_and_the_place_of_memories_are_free(self, saved):
        begin(engine(object_batch=1, offload_state=True, frame_batch=2), "live").load(saved)

    def test_another_clip(self, saved):
        with pytest.raises(StateError, match="is of a session of another policy"):
            begin(engine(), "whole").load(saved)
        with pytest.raises(StateError, match="is of a session of another size"):
            Session(engine(), HEIGHT, WIDTH + 1, Policy.named("live")).load(saved)
        begun = begin(engine(), "live")
        begun.add("red")
        with pytest.raises(StateError, match="load a state into a new session, before any prompt or frame"):
            begun.load(saved)

    def test_no_file_and_no_state(self, saved, tmp_path):
        with pytest.raises(StateError, match="cannot be read"):
            begin(engine(), "live").load(tmp_path / "nothing")
        (tmp_path / "text").write_text("hello")
        with pytest.raises(StateError, match="cannot be read"):
            begin(engine(), "live").load(tmp_path / "text")
        save_file({"a": torch.zeros(1)}, tmp_path / "tensors")
        with pytest.raises(StateError, match="is not a session state"):
            begin(engine(), "live").load(tmp_path / "tensors")

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
    def test_damage_is_noticed(self, saved, tmp_path, place, bit, cut):
        data = bytearray(saved.read_bytes())
        at = int(place * len(data))
        data[at] ^= 1 << bit
        damaged = tmp_path / "damaged"
        damaged.write_bytes(data[:at] if cut else data)
        with pytest.raises(StateError):
            begin(engine(), "live").load(damaged)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_hostile_state_is_refused_or_harmless(self, saved, tmp_path, data):
        """Any value of the text is replaced by another; the digest is that of the changed file."""
        with safe_open(saved, framework="pt") as file:
            state = json.loads(file.metadata()["sam3ray.session"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        parent: Any = state
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            if not keys:
                return
            key = data.draw(st.sampled_from(keys))
            if not isinstance(parent[key], dict | list) or data.draw(st.integers(0, 4)) == 0:
                break
            parent = parent[key]
        odd = st.sampled_from([None, -1, 0, 1, 3, 2**31, 2**70, 0.5, "x", "", [], {}, [1], True, [[0, 0, 0, None]]])
        parent[key] = data.draw(odd)
        text, path = json.dumps(state), tmp_path / "hostile"
        save_file(tensors, path, {"sam3ray.session": text, "sam3ray.digest": digest_of(text, tensors)})
        session = begin(engine(), "live")
        with contextlib.suppress(StateError):
            session.load(path)


def test_memories_are_copied_once_and_nothing_else_grows(tmp_path):
    """Saving does not disturb: the session that was saved goes on as if it had not been."""
    session, other = begin(engine(), "live"), begin(engine(), "live")
    for each in (session, other):
        each.add("red")
    for frame in FRAMES[:10]:
        session.save(tmp_path / "state")
        assert [row(each) for each in session.step(frame)] == [row(each) for each in other.step(frame)]


def test_a_session_whose_cap_dropped_objects_is_saved(tmp_path):
    one = engine(max_num_objects=1, hotstart_delay=0)
    session = begin(one, "live")
    session.add("red")
    for frame in FRAMES[:3]:
        session.step(frame)
    assert session.tally.dropped > 1
    session.save(tmp_path / "state")
    again = begin(one, "live")
    again.load(tmp_path / "state")
    assert again.tally == session.tally


def test_a_state_of_another_format_is_foreign(tmp_path):
    session = begin(engine(), "live")
    state = json.loads(session.snapshot().text) | {"format": 3}
    text = json.dumps(state)
    save_file({}, tmp_path / "old", {"sam3ray.session": text, "sam3ray.digest": digest_of(text, {})})
    with pytest.raises(StateError, match="has format 3; allowed: 4") as caught:
        session.load(tmp_path / "old")
    assert caught.value.is_foreign


def test_a_tensor_of_one_element_is_saved_whatever_its_stride():
    tensors = StateTensors()
    tensors.put("one", torch.empty_strided((1,), (0,)).fill_(0.5))
    assert digest_of("", tensors.values) == digest_of("", {"one": torch.tensor([0.5])})
