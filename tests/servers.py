"""Object-store servers for tests, as processes of their own, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AZURITE = "azurite@3.35.0"  # the last release for Node 20; 3.36 wants 21
AZURE_ACCOUNT = "devstoreaccount1"
# The key that every Azurite has; it is published and opens nothing else.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AWS_ACCESS_KEY = "AKIASAM3RAYTESTS0001"
AWS_SECRET = "sam3ray+secret/of+the+tests"
S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": AWS_ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}
START_S = 180.0  # for a server to answer, on a busy machine
_CACHE = Path(__file__).parent.parent / ".cache" / "azurite"


@dataclass(frozen=True)
class Place:
    """An empty folder somewhere: its uri, and the fsspec options that reach it. Credentials are in the environment."""

    uri: str
    options: dict[str, Any] = field(default_factory=dict)


def free_port() -> int:
    """One that nobody listens at, from a range that the system does not hand out by itself meanwhile."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextlib.contextmanager
def process(command: list[str], url: str, log: Path, **env: str) -> Iterator[None]:
    """A server that answers at `url`; ended, with its children, at the end."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **env}, start_new_session=True
        )
    try:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if server.poll() is not None:
                raise RuntimeError(f"{command[0]} ended at once: {log.read_text()[-2000:]}")
            if _answers(url):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"nothing answers at {url}: {log.read_text()[-2000:]}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # an error is an answer
    except OSError:
        return False
    return True


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[str]:
    """moto's S3 server; yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], url, folder / "moto.log"):
        yield url


def find_azurite() -> str | None:
    """Azurite's blob server: on the PATH, in the checkout's cache, or put there now with npm; None without either.

    One of the test processes installs it, and the others wait.
    """
    installed = _CACHE / "node_modules" / ".bin" / "azurite-blob"
    on_path, npm = shutil.which("azurite-blob"), shutil.which("npm")
    if on_path is not None or npm is None or shutil.which("node") is None:
        return on_path
    _CACHE.mkdir(parents=True, exist_ok=True)
    with open(_CACHE / "installing", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(installed, os.X_OK):
            command = [npm, "install", "--prefix", str(_CACHE), "--no-audit", "--no-fund", "--loglevel=error", AZURITE]
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(command, capture_output=True, timeout=240, check=True)
    return str(installed) if os.access(installed, os.X_OK) else None


@contextlib.contextmanager
def azure(folder: Path, binary: str) -> Iterator[str]:
    """Azurite; yields its connection string."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [binary, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    command += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with process(command, f"{url}/{AZURE_ACCOUNT}", folder / "azurite.log"):
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
            f"BlobEndpoint={url}/{AZURE_ACCOUNT};"
        )
