"""The rule of ranges and sampling, over all kinds of clocks."""

from __future__ import annotations

from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from sam3ray.video._sampling import Sampler, exact

TIME_BASES = st.sampled_from(
    [Fraction(1, 1000), Fraction(1, 15360), Fraction(1, 90000), Fraction(1, 30), Fraction(1001, 30000)]
)
TIMES = st.lists(st.integers(0, 3000), min_size=1, max_size=60, unique=True).map(sorted)
SECONDS = st.one_of(st.none(), st.integers(0, 2000).map(lambda ms: ms / 1000))
RATES = st.integers(1, 60000).map(lambda mhz: mhz / 1000)


def select(
    times: list[int], time_base: Fraction, start: float | None, end: float | None, fps: float | None
) -> list[int]:
    sampler = Sampler(time_base, start, end, fps)
    return [t for t in times if sampler.wants(t)]


@given(TIMES, TIME_BASES, SECONDS, SECONDS)
def test_a_range_is_half_open(times: list[int], time_base: Fraction, start: float | None, end: float | None) -> None:
    expected = [t for t in times if t * time_base >= exact(start or 0) and (end is None or t * time_base < exact(end))]
    assert select(times, time_base, start, end, None) == expected


@given(TIMES, TIME_BASES, st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000))
def test_adjacent_ranges_share_no_frame_and_lose_none(
    times: list[int], time_base: Fraction, a: int, b: int, c: int
) -> None:
    low, middle, high = (v / 1000 for v in sorted((a, b, c)))
    parts = select(times, time_base, low, middle, None) + select(times, time_base, middle, high, None)
    assert parts == select(times, time_base, low, high, None)


@given(TIMES, TIME_BASES, SECONDS, SECONDS, RATES)
def test_sampling_takes_the_first_frame_at_or_after_each_tick(
    times: list[int], time_base: Fraction, start: float | None, end: float | None, fps: float
) -> None:
    in_range = select(times, time_base, start, end, None)
    expected = []
    if in_range:
        k = 0
        while True:
            tick = floor((exact(start or 0) + k / exact(fps)) / time_base)
            if tick > in_range[-1]:
                break
            expected.append(next(t for t in in_range if t >= tick))
            k += 1
    assert select(times, time_base, start, end, fps) == sorted(set(expected))


@given(st.integers(1, 120), st.integers(1, 200), st.sampled_from([1000, 15360, 90000]))
def test_the_sources_own_rate_or_more_takes_every_frame(fps: int, count: int, units: int) -> None:
    times = [i * units // fps for i in range(count)]  # stamps rounded down, as some muxers do
    assert select(times, Fraction(1, units), None, None, float(fps)) == times
    assert select(times, Fraction(1, units), None, None, fps * 2.5) == times


@given(st.integers(2, 60), st.integers(2, 6))
def test_a_whole_divisor_takes_every_nth_frame(fps: int, n: int) -> None:
    times = [round(Fraction(i * 90000, fps * n)) for i in range(100)]
    assert select(times, Fraction(1, 90000), None, None, float(fps)) == times[::n]


def test_decimal_seconds_mean_what_is_written() -> None:
    times = list(range(0, 1000, 100))
    assert select(times, Fraction(1, 1000), 0.1, 0.3, None) == [100, 200]
    assert exact(0.1) == Fraction(1, 10)
