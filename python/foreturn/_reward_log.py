"""Rewards on the disk, by what was asked: a job that is killed goes on with them, and a row is not computed twice."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from io import FileIO
from pathlib import Path

from ._errors import FileError
from ._rewards import Outcome


class RewardLog:
    """A folder that several processes write rewards to.

    Each process appends to a file of its own, whose name has its machine and number. So only the end of a file can be cut
    off, by a kill, and nobody writes behind it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._known: dict[str, Outcome] = {}
        self._read: dict[Path, int] = {}
        self._own: FileIO | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"the log {self._folder} can't be made: {error}. It is a folder that all workers see") from error

    def update(self) -> None:
        """Reads what others have written."""
        with self._lock:
            try:
                for path in sorted(self._folder.glob("rewards-*.jsonl")):
                    self._update(path)
            except OSError as error:
                raise FileError(f"the log {self._folder} can't be read: {error}") from error

    def _update(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole, end, _ = file.read().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines()):
            try:
                fields = json.loads(line)
                outcome = Outcome(fields["reward"], fields["std_error"], fields["tokens"], fields["excluded"])
                self._known[fields["key"]] = outcome
            except (ValueError, TypeError, KeyError) as error:
                raise FileError(
                    f"{path}, line {number + 1} of what is new, is not a line of a log of rewards: {error!r}. Move the file away"
                ) from error
        self._read[path] = self._read.get(path, 0) + len(whole) + len(end)

    def get(self, key: str) -> Outcome | None:
        """The outcome that is known for a key."""
        with self._lock:
            return self._known.get(key)

    def put(self, key: str, outcome: Outcome) -> None:
        """Notes a reward. It is on the disk when this returns, or nothing of it is. What has no reward, or
        lost a future to an outage, is not noted: it is computed again."""
        if outcome.reward is None or outcome.outage is not None:
            return
        fields = {
            "key": key, "reward": outcome.reward, "std_error": outcome.std_error, "tokens": outcome.tokens,
            "excluded": outcome.excluded,
        }
        line = json.dumps(fields).encode() + b"\n"
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                raise FileError(f"the log {self._folder} can't be written: {error}") from error
            self._known[key] = outcome

    def _append(self, line: bytes) -> None:
        if self._own is None:
            name = f"rewards-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
            # Without a buffer, because what a full disk did not take must not come later, behind another line.
            self._own = (self._folder / name).open("xb", buffering=0)
        end = self._own.tell()
        try:
            written = 0
            while written < len(line):
                written += self._own.write(line[written:])
            os.fsync(self._own.fileno())
        except OSError:
            self._own.truncate(end)
            self._own.seek(end)
            raise

    def close(self) -> None:
        """Closes this process's file."""
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._own = None
