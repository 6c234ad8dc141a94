"""A gate in the middle of every clip: what kills a job finds it at work, however quick or slow the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Gate:
    """Lets so many clips through; attempts at any others stand before it. A clip that was let through stays so.

    Everything is a file in `folder`, so that it holds across processes and their deaths.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder) / "gate"

    # Outside

    def open_for(self, clips: int) -> None:
        """So many in all. Opened further at each call, never closed."""
        self.folder.mkdir(exist_ok=True)
        new = self.folder / "open.new"
        new.write_text(str(clips))
        new.replace(self.folder / "open")

    def waiting(self) -> set[int]:
        """The processes that stand before it. Some of them may be dead."""
        return {int(path.name.removeprefix("waits-")) for path in self.folder.glob("waits-*")}

    # In a worker

    def enter(self, clip: int) -> None:
        """Returns once the clip may go on."""
        mark = self.folder / f"waits-{os.getpid()}"
        if not self._let_through(clip):
            mark.touch()
            while not self._let_through(clip):
                time.sleep(0.02)
            mark.unlink()

    def _let_through(self, clip: int) -> bool:
        passed = self.folder / f"passed-{clip}"
        if passed.exists():
            return True
        for place in range(int((self.folder / "open").read_text())):
            try:
                os.close(os.open(self.folder / f"place-{place}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            passed.touch()
            return True
        return False
