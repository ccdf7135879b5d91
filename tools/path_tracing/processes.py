# SPDX-License-Identifier: Apache-2.0
"""Renders scenes in one process after another, and continues after one that fails."""

import time
from typing import Final

from surgseg_ros.core.processes import ignore_terminal_signals, worker_pool
from tools.path_tracing.worker import SHOTS, Batch, is_complete, render_batch

SCENES_PER_PROCESS: Final = 10
"""Blender keeps some memory of each scene, so a process renders only so many of them."""


def render_missing(wanted: Batch) -> dict[int, RuntimeError]:
    """
    Render the scenes that are missing, in one process after another.

    :param wanted: all scenes.
    :return: the errors of the scenes that failed, by number.
    :raises OSError: if a scene cannot be written.
    """
    failed: dict[int, RuntimeError] = {}
    while missing := _missing(wanted, failed):
        batch = wanted._replace(scenes=missing[:SCENES_PER_PROCESS])
        start = time.monotonic()
        try:
            with worker_pool(1) as pool:
                with ignore_terminal_signals():
                    result = pool.submit(render_batch, batch)
                result.result()
        except RuntimeError as error:  # of Blender, or of a process that was killed
            if unfinished := _missing(batch, failed):
                failed[unfinished[0]] = error
        left = _missing(wanted, failed)
        if count := len(missing) - len(left):
            seconds = (time.monotonic() - start) / (count * SHOTS)
            print(f'{len(left)} scenes left, {seconds:.1f} s per image', flush=True)
    return failed


def _missing(wanted: Batch, failed: dict[int, RuntimeError]) -> tuple[int, ...]:
    scenes = (scene for scene in wanted.scenes if not is_complete(wanted.output, scene))
    return tuple(scene for scene in scenes if scene not in failed)
