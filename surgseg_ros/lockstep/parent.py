# SPDX-License-Identifier: Apache-2.0
"""What a worker owes the process that began it; imports nothing that takes time."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process when the one that began it is killed, instead of waiting for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
