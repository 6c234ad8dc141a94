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

    def admit(self, processes: set[int]) -> None:
        """The clips with which these processes stand before it, whatever the number of others."""
        for pid, clip in self._standing().items():
            if pid in processes:
                (self.folder / f"passed-{clip}").touch()

    def hold(self, clip: int) -> None:
        """This clip is not let through before `release`, wherever the gate is open."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"held-{clip}").touch()

    def release(self, clip: int) -> None:
        (self.folder / f"held-{clip}").unlink(missing_ok=True)

    def waiting(self) -> set[int]:
        """The processes that stand before it. Some of them may be dead."""
        return set(self._standing())

    def held(self) -> dict[int, int]:
        """The processes that stand before it with a clip that is held, and the clip. Some of them may be dead."""
        return {pid: clip for pid, clip in self._standing().items() if (self.folder / f"held-{clip}").exists()}

    def _standing(self) -> dict[int, int]:
        names = [path.name.split("-") for path in self.folder.glob("waits-*")]
        return {int(pid): int(clip) for _, pid, clip in names}

    # In a worker

    @property
    def holds(self) -> bool:
        return any(self.folder.glob("held-*"))

    def enter(self, clip: int) -> None:
        """Returns once the clip may go on."""
        mark = self.folder / f"waits-{os.getpid()}-{clip}"
        if not self._let_through(clip):
            mark.touch()
            while not self._let_through(clip):
                time.sleep(0.05)
            mark.unlink()

    def _let_through(self, clip: int) -> bool:
        if (self.folder / f"held-{clip}").exists():
            return False
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
