"""The storages that a run may live on."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from sam3ray.store import RetryPolicy, RunStore
from tests.servers import Place

QUICK = RetryPolicy(tries=8, base_s=0.01, cap_s=0.05)


@pytest.fixture(params=["local", "memory", "s3", "azure"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path / "labels" / "run"))
    if request.param == "memory":
        return Place(f"memory://{uuid.uuid4().hex}/run")
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


@pytest.fixture
def store(place: Place) -> RunStore:
    return RunStore(place.uri, place.options, QUICK)


@pytest.fixture
def local_store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"), None, QUICK)


def everything(store: RunStore) -> dict[str, bytes]:
    """Every file of a run, and its bytes."""
    storage: Any = store.storage
    return {entry.path: storage.read(entry.path) for entry in storage.walk()}
