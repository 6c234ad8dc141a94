"""Worker processes: in order, and gone when what started them is gone."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil

from sam3ray.guard.processes import in_processes


def test_results_come_in_the_order_of_the_items():
    assert list(in_processes(abs, [-3, 2, -1], workers=2)) == [3, 2, 1]
    assert list(in_processes(abs, [], workers=2)) == []


def test_workers_end_with_a_parent_that_is_killed():
    script = (
        "import os\n"
        "from sam3ray.guard.processes import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    pool = worker_pool(2)\n"
        "    print(*{pool.submit(os.getpid).result() for _ in range(50)}, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert workers
    assert parent.pid not in [each.pid for each in workers]
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
