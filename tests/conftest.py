"""Fixtures that several packages' tests share."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests import servers
from tests.lean_ray import lean
from tests.servers import Place

if TYPE_CHECKING:
    from sam3ray.config import ModelConfig
    from sam3ray.engine.checkpoint import Checkpoint

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as `sam3ray.engine` does: parity tests run transformers first
# On tensors as small as these a second thread takes longer than it saves: it spins, and so does the other process's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some machines set it. Then each of hundreds of processes would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# From the first: a Ray that starts before the S3 server passes them on to its workers all the same.
os.environ |= servers.S3_CREDENTIALS
os.environ.pop("AWS_PROFILE", None)
os.environ.pop("RAY_ADDRESS", None)  # no test joins a cluster that it has not started

gc.disable()  # until all is collected: what is imported and collected stays
if "PYTEST_XDIST_WORKER" in os.environ:
    # Registered before what tests import, it runs after it. All has been reported, and to take torch's modules apart
    # one by one takes more than two seconds.
    atexit.register(os._exit, 0)

# They share the server of `tests/app/conftest.py`, and the model that it has loaded.
_PAGE = tuple(f"tests/app/test_{name}.py" for name in ("try_page", "prompting_page", "live_page", "page_typing"))
_SERVERS = ("e2e", "app")  # folders of tests that start Ray, or a server and a browser
_PATIENCE_S = 900  # for these; others have pyproject's `timeout`
# The longest files that wait for a server, the longest first.
_WAITING = (
    "test_try_page.py",
    "test_kills.py",
    "test_cluster.py",
    "test_chaos.py",
    "test_outliving.py",
    "test_parallel_windows.py",
    "test_job.py",
    "test_run_store.py",
    "test_faults.py",
    "test_prompts_job.py",
    "test_review_page.py",
    "test_out_of_memory.py",
    "test_rendering.py",
    "test_demo.py",
    "test_compact.py",
    "test_run_on.py",
    "test_cluster_page.py",
    "test_object_stores.py",
    "test_golden.py",
    "test_clip_kills.py",
    "test_cluster_model.py",
    "test_model_memory.py",
    "test_what_was_asked.py",
    "test_first_pages.py",
)
_MODELS = ("engine", "training", "cameras")  # folders of tests that run models, frame by frame
# Files that take long, the longest first: begun last, one process would be left alone with them.
_LONG = (
    "test_windows.py",
    "test_embedded.py",
    "test_state.py",
    "test_text_parity.py",
    "test_visual_parity.py",
    "test_exemplars.py",
    "test_session.py",
    "test_plan.py",
    "test_waits.py",
    "test_ranges.py",
    "test_sound.py",
    "test_compact.py",
    "test_ranged_clips.py",
    "test_prompting_page.py",
    "test_text.py",
    "test_tracker.py",
    "test_phrases_alone.py",
    "test_packed_attention.py",
    "test_text_defects.py",
    "test_segment.py",
    "test_visual_defects.py",
    "test_visual.py",
    "test_gcs.py",
    "test_mirror.py",
    "test_session_page.py",
    "test_wheel.py",
    "test_fuzz.py",
    "test_evaluate.py",
    "test_runs_side_by_side.py",
    "test_bombs.py",
    "test_liveness.py",
    "test_sick_places.py",
    "test_run_dataset.py",
    "test_export_cases.py",
    "test_fuzz_input.py",
    "test_deploy.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs Ray, a browser or a server and what takes long, and puts the longest files first.

    In several processes (`--dist loadfile`) each file's tests stay together, with their fixtures. Files that wait, for
    Ray or a browser, take turns with those that compute, so that there is work for every core all the time.
    """
    for item in items:
        folder, fixtures = item.path.parent.name, set(getattr(item, "fixturenames", ()))
        places = {
            value for value in getattr(getattr(item, "callspec", None), "params", {}).values() if type(value) is str
        }
        if folder in _SERVERS or {"s3_server", "azure_server"} & fixtures or {"s3", "azure"} & places:
            item.add_marker(pytest.mark.server)
        if folder in _SERVERS and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_PATIENCE_S))
        if folder in _MODELS or item.path.name in _LONG:
            item.add_marker(pytest.mark.long)
    paths = dict.fromkeys(item.path for item in items)
    waiting = [path for path in paths if path.parent.name in _SERVERS or path.name in _WAITING]
    waiting.sort(key=lambda path: _WAITING.index(path.name) if path.name in _WAITING else len(_WAITING))
    turns = {path: 2 * turn for turn, path in enumerate(waiting)}
    turns |= {item.path: 2 * _LONG.index(item.path.name) + 1 for item in items if item.path.name in _LONG}
    last = len(items)  # a list that is being sorted is empty
    items.sort(key=lambda item: turns.get(item.path, last))


def pytest_collection_finish() -> None:
    """The collector never looks again at a million objects that stay for as long as the process does."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # or libraries report what they take for leaks


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for files that share a server, a browser and a loaded model: they go to one process."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "the page" if file.endswith(_PAGE) else file

    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """A checkpoint is loaded once, however many models are made of it: its weights are never written."""
    import sam3ray.model as module

    load: Callable[..., Checkpoint] = module.load_checkpoint
    loaded: dict[str, Checkpoint] = {}

    def once(config: ModelConfig, *more: object) -> Checkpoint:
        key = config.model_dump_json()
        if key not in loaded:
            loaded[key] = load(config, *more)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_checkpoint", once)
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Each test has the package's log to itself, whatever a command or a library has set up in this process before."""
    _reset_log()
    yield
    _reset_log()


def _reset_log() -> None:
    log = logging.getLogger("sam3ray")
    log.handlers[:], log.propagate = [], True
    log.setLevel(logging.NOTSET)
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "sam3ray":
            logger.disabled = False
    logging.disable(logging.NOTSET)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread, as in an actor with one CPU: the number of threads decides the order of float sums."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """The one Ray of this process: all tests share it that run the driver in this process, or an actor."""
    import ray

    from sam3ray.job.cluster import start_local

    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: on a busy machine the tests would starve
    ray.shutdown()  # of what a test that failed has left
    lean()
    start_local(num_cpus=2, num_gpus=0, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server over HTTP."""
    pytest.importorskip("moto.server")
    session = pytest.importorskip("botocore.session")
    with pytest.MonkeyPatch.context() as patch, servers.s3(tmp_path_factory.mktemp("s3")) as url:
        # botocore's descriptions of S3 are read once a process, not once for each of hundreds of stores.
        patch.setattr(session, "create_loader", functools.lru_cache(session.create_loader))
        yield url


@pytest.fixture
def s3_place(s3_server: str) -> Place:
    """A folder in a new bucket."""
    import fsspec

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", endpoint_url=s3_server, skip_instance_cache=True).mkdir(bucket)
    return Place(f"s3://{bucket}/labels/run", {"endpoint_url": s3_server})


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of an Azure Blob server over HTTP; it is in the environment, too."""
    binary = servers.find_azurite()
    if binary is None:
        pytest.skip("no Azurite: it needs Node 20 or later, and npm to install it")
    with pytest.MonkeyPatch.context() as patch, servers.azure(tmp_path_factory.mktemp("azure"), binary) as connection:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        yield connection


@pytest.fixture
def azure_place(azure_server: str) -> Place:
    """A folder in a new container."""
    import fsspec

    container = f"container-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("az", skip_instance_cache=True).mkdir(container)
    return Place(f"az://{container}/labels/run")
