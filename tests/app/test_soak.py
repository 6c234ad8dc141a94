"""The soak's verdict: on an hour of samples whose growth is known."""

import numpy as np
import pytest

from tests.app.soak import Sample, _judged


def an_hour(in_use=0.0, resident=0.0, swing=4.0, minutes=60.0):
    """Samples every ten seconds of a process that grows so much, in MB an hour."""
    numbers = np.random.default_rng(0)
    for passed in np.arange(0, minutes, 1 / 6):
        filling = -30 * np.exp(-passed / 3)  # caches
        used = 300 + filling + in_use * passed / 60 + numbers.uniform(-swing, swing)
        own = 1100 + filling + (in_use + resident) * passed / 60 + numbers.uniform(-40, 40)
        yield Sample(float(passed), {"model resident": own, "model in use": used}, {"threads": 20})


@pytest.mark.parametrize(
    ("growth", "verdict"),
    [
        ({}, (True, True)),
        ({"in_use": 2.0}, (True, True)),
        ({"in_use": 10.0}, (False, False)),
        ({"resident": 100.0}, (False, True)),
        ({"swing": 40.0}, (True, False)),
        ({"minutes": 4.0}, (True, False)),
        ({"minutes": 31.0, "in_use": 60.0}, (False, False)),
    ],
    ids=["flat", "2 MB", "leaks 10 MB", "resident grows", "swings too much to tell", "too short to tell", "leaks much"],
)
def test_the_verdict(growth, verdict):
    assert _judged(list(an_hour(**growth))) == verdict


def test_a_thread_per_minute_is_seen():
    samples = [Sample(each.minutes, each.mb, {"threads": 20 + int(each.minutes)}) for each in an_hour()]
    assert _judged(samples) == (False, True)
