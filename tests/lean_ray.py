"""The Ray that tests start, without the parts that no job of ours asks anything of."""

from __future__ import annotations

import os

# Workers before anybody asks for one: a job's actors start their own.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Of `ray start`.
LEAN = ("--include-log-monitor=false", "--no-monitor")


def lean() -> None:
    """A Ray that this process starts has no log monitor, autoscaler nor dashboard: 3 CPU s a start, not 6.

    Ray 2.60 has options for the first two, on its command line alone. Jobs that tests run by the command `sam3ray`
    have the whole Ray.
    """
    from ray._private.node import Node

    for part in ("start_log_monitor", "start_monitor", "start_api_server"):
        assert callable(getattr(Node, part)), part
        setattr(Node, part, _not_started)


def _not_started(node: object, **_: object) -> None: ...
