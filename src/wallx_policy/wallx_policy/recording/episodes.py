"""Episodes in a folder: at most one is being recorded, each is one bag."""

from __future__ import annotations

import enum
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wallx_policy.recording.bag_writer import BagWriter


class Action(enum.Enum):
    """What a user asks of the recorder."""

    START = 1
    STOP = 2
    KEEP = 3
    DISCARD = 4
    RERECORD = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: one sentence, and the bag it was about."""

    success: bool
    message: str
    bag: Path | None = None


class Episodes:
    """Starts, finishes, keeps and deletes bags in one folder.

    Args:
        directory: Where bags go; created when the first one starts.
        ros_distro: Stored in each bag.
        name: ``name(n)`` is the folder name of the n-th bag, n from 0.
    """

    def __init__(self, directory: Path, ros_distro: str, name: Callable[[int], str]) -> None:
        self.directory = directory
        self.writer: BagWriter | None = None
        self._ros_distro = ros_distro
        self._name = name
        self._started = 0
        self._last: BagWriter | None = None
        self._task = ""

    def apply(self, action: Action, task: str = "") -> Outcome:
        """Do what the user asks."""
        if action is Action.START:
            return self._start(task)
        if action is Action.STOP:
            return self.stop()
        if action is Action.KEEP:
            return self._keep()
        discarded = self._discard()
        if action is Action.DISCARD or not discarded.success:
            return discarded
        return self._start(task or self._task)

    def stop(self, reason: str = "") -> Outcome:
        """Finish the current bag; ``reason`` is stored with it."""
        writer = self.writer
        if writer is None:
            return Outcome(False, "nothing is being recorded")
        self.writer = None
        self._last = writer
        try:
            writer.close()
            if reason:
                writer.set_custom("stop_reason", reason)
        except OSError as error:
            return Outcome(
                False,
                f"{writer.folder} ends at its last complete chunk: {error.strerror}",
                writer.folder,
            )
        return Outcome(
            True, f"recorded {writer.message_count} messages to {writer.folder}", writer.folder
        )

    def _start(self, task: str) -> Outcome:
        if self.writer is not None:
            folder = self.writer.folder
            return Outcome(False, f"already recording to {folder}: stop it first", folder)
        folder = self.directory / self._name(self._started)
        try:
            self.writer = BagWriter(folder, {"task": task}, self._ros_distro)
        except FileExistsError:
            return Outcome(False, f"{folder} exists and is not overwritten", folder)
        except OSError as error:
            return Outcome(False, f"cannot write to {folder}: {error.strerror}", folder)
        self._started += 1
        self._task = task
        return Outcome(True, f"recording to {folder}", folder)

    def _keep(self) -> Outcome:
        outcome = self.stop() if self.writer is not None else None
        if outcome is not None and not outcome.success:
            return outcome
        if self._last is None:
            return Outcome(False, "no bag to keep: nothing has been recorded")
        bag, self._last = self._last, None
        bag.set_custom("kept", "true")
        return Outcome(True, f"kept {bag.folder}", bag.folder)

    def _discard(self) -> Outcome:
        if self.writer is not None:
            self.stop()
        if self._last is None:
            return Outcome(False, "no bag to discard: none is open and the last one was kept")
        bag, self._last = self._last, None
        try:
            shutil.rmtree(bag.folder)
        except OSError as error:
            return Outcome(False, f"cannot delete {bag.folder}: {error.strerror}", bag.folder)
        return Outcome(True, f"deleted {bag.folder}", bag.folder)
