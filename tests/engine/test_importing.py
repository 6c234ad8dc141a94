"""Imports with the garbage collector off."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from sam3ray.engine.importing import uncollected


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As in a process that has frozen nothing. pytest's own has: see `tests/conftest.py`."""
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    yield
    gc.enable()
    if frozen:
        gc.freeze()


def test_what_is_imported_is_old_and_the_collector_runs_again_even_after_an_error():
    with uncollected():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert any(each is made for each in gc.get_objects(generation=2))
    assert not gc.get_freeze_count()
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_what_somebody_has_frozen_stays_frozen():
    gc.freeze()
    count = gc.get_freeze_count()
    with uncollected():
        pass
    assert gc.get_freeze_count() >= count - 100
    assert gc.isenabled()
