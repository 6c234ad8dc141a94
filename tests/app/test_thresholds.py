"""Thresholds that a page sends: our own sentence with what is allowed, never the checking library's."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi")

from sam3ray.app._order import parse_thresholds
from sam3ray.config import TrackingConfig
from sam3ray.failures import UserError


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"new_det_thresh": 7}, "new_det_thresh is 7; allowed: a number from 0 to 1, or null"),
        ({"new_det_thresh": "x"}, "new_det_thresh is 'x'; allowed: a number from 0 to 1, or null"),
        ({"nothing": 1}, "thresholds: 'nothing' is unknown; allowed: "),
        ([1], "thresholds must be a mapping"),
    ],
)
def test_a_wrong_threshold(value: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_thresholds(value, TrackingConfig())
    assert str(caught.value).startswith(said)
