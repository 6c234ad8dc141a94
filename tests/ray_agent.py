"""Takes the place of a dashboard's agent, without which no raylet lives: it says that it serves nothing, and waits.

An agent imports for a second and reads statistics of all processes from then on; no job of ours asks it anything.
"""

import os
import sys
import time
from pathlib import Path

SERVICES = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port")


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    for service in SERVICES:
        path = Path(given["--session-dir"], f"{service}_{given['--node-id']}")
        new = path.with_name(f"{path.name}.new")
        new.write_text("-1")  # as Ray's own agent says of what it does not serve
        new.replace(path)
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    main()
