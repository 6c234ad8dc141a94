"""Gets a file from another project's repository, and keeps it between runs."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tools.interop._environment import cache
from tools.interop._place import ToolFailed


def upstream_file(repository: str, source: str, variable: str) -> Path:
    """Gets `source` from a GitHub repository (owner/name): from a clone named by the variable `variable`, else from
    GitHub.
    """
    path = cache() / "upstream" / repository.replace("/", "+") / Path(source).name
    if path.exists():
        return path
    clone = os.environ.get(variable)
    if clone:
        done = subprocess.run(["git", "-C", clone, "show", f"HEAD:{source}"], capture_output=True)
        if done.returncode:
            raise ToolFailed(f"${variable} is {clone}, which has no {source}: {done.stderr.decode()[-300:]}")
        data = done.stdout
    else:
        address = f"https://raw.githubusercontent.com/{repository}/HEAD/{source}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise ToolFailed(f"{address} cannot be read ({error}); name a clone of it in ${variable}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
