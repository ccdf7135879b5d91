# SPDX-License-Identifier: Apache-2.0
"""Which activation a frame belongs to; no ROS in here."""

import contextlib
import threading
from collections.abc import Iterator


class Generation:
    """Counts changes of state; a result belongs to one, and is discarded after it."""

    def __init__(self) -> None:
        """Start at 0, at rest."""
        self._lock = threading.Lock()
        self.number = 0

    def advance(self) -> int:
        """
        End the present generation; waits for what is being published in it.

        :return: the number of the next.
        """
        with self._lock:
            self.number += 1
            return self.number

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[bool]:
        """
        Keep the generation from ending.

        :param number: of a result.
        :return: context that says whether this is still the present generation.
        """
        with self._lock:
            yield number == self.number
