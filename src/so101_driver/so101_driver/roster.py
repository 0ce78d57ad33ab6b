"""Whom a sync read asks: servos that answer first, silent ones last and seldom.

A servo that does not answer costs the time that one waits for it, and whether the servos behind it
in the list still answer depends on their firmware. So whoever was missing goes to the end of the
list, and whoever stays silent is asked in turn with the other silent ones, now and then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

SILENT_AFTER = 4
"""Consecutive missing replies after which a servo is asked apart."""
ASK_SILENT_EVERY = 10
"""Every so many reads one of the silent servos is asked too."""


class Roster:
    """Keeps the order in which servos are asked; not thread-safe.

    Args:
        ids: All servos.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._order = list(ids)
        self._missed = dict.fromkeys(ids, 0)
        self._reads = 0

    def asked(self) -> tuple[int, ...]:
        """Return whom the next read asks; everybody while nobody answers."""
        self._reads += 1
        silent = [i for i in self._order if self._missed[i] >= SILENT_AFTER]
        if not silent or len(silent) == len(self._order):
            return tuple(self._order)
        answering = [i for i in self._order if self._missed[i] < SILENT_AFTER]
        if self._reads % ASK_SILENT_EVERY == 0:
            answering.append(silent[0])
        return tuple(answering)

    def heard(self, asked: Collection[int], missing: Collection[int]) -> None:
        """Take who was asked by the last read, and who of them did not answer."""
        for servo_id in asked:
            self._missed[servo_id] = self._missed[servo_id] + 1 if servo_id in missing else 0
        if not missing:
            return
        if len(missing) == len(self._order):
            # Perhaps it is only the first that keeps the others from answering.
            self._order.append(self._order.pop(0))
        else:
            self._order.sort(key=lambda servo_id: servo_id in missing)
