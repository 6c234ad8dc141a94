"""The Ray that tests start, without the parts that no job of ours asks anything of."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Workers before anybody asks for one: a job's actors start their own.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Of a `ray start` that is otherwise whole.
LEAN = ("--include-log-monitor=false", "--no-monitor")
# What `ray start` imports for other commands, where it can: a second of processor time for each node.
_OTHER_COMMANDS = ("ray.util.state.state_cli", "ray.dashboard.modules.job.cli", "ray.serve.scripts")
AGENT = Path(__file__).with_name("ray_agent.py")


def lean() -> None:
    """A Ray that this process starts has no log monitor, autoscaler, dashboard, client server nor dashboard's agent.

    Ray 2.60 has options for the first two, on its command line alone. Jobs that tests run by the command `sam3ray`
    have the whole Ray.
    """
    from ray._private import ray_constants, services
    from ray._private.node import Node

    for part in ("start_log_monitor", "start_monitor", "start_api_server", "start_ray_client_server"):
        assert callable(getattr(Node, part)), part
        setattr(Node, part, _not_started)
    name = "_build_python_executable_command_memory_profileable"
    build = getattr(services, name)

    def command(component: str, *more: Any, **options: Any) -> list[str]:
        if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT:
            return [sys.executable, "-I", "-S", str(AGENT)]  # what follows are the agent's own arguments
        built: list[str] = build(component, *more, **options)
        return built

    setattr(services, name, command)


def _not_started(node: object, **_: object) -> None: ...


if __name__ == "__main__":  # `python -m tests.lean_ray start ...` is a lean `ray start ...`
    sys.modules |= dict.fromkeys(_OTHER_COMMANDS)  # which makes an import of them fail
    lean()
    from ray.scripts.scripts import main

    main()
