"""SIGTERM from the first import on: exit code 130 and a sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(*arguments: str, path: Path | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, [path, ROOT])))}
    return subprocess.Popen(
        [sys.executable, "-m", "sam3ray", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_during_the_imports(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time; print('importing', flush=True); time.sleep(600)")
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start("--help", path=tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        assert end(process, number) == (130, "sam3ray: interrupted\n")


def test_while_a_server_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = tmp_path / "job.yaml"
        config.write_text(
            f"manifest: http://127.0.0.1:{server.getsockname()[1]}/clips.csv\noutput: {tmp_path}/run\n"
            "prompts: [person]\nmodel: {checkpoint: embedded}\ncluster: {gpus_per_actor: 0}\n"
        )
        process = start("run", str(config))
        connection, _ = server.accept()
        with connection:
            code, said = end(process, signal.SIGTERM)
    assert code == 130
    assert said == "sam3ray: interrupted\n"
