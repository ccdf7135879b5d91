# SPDX-License-Identifier: Apache-2.0
"""The camera's process, and what the system knows of any process."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import torch

ROOT: Final = Path(__file__).resolve().parents[2]


class CameraProcess:
    """
    A camera that can be killed, stopped and told to change.

    :param topic: where it publishes.
    :param options: for tools.soak.camera.
    """

    def __init__(self, topic: str, *options: str) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tools.soak.camera', '--topic', topic, *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
        )

    def report(self, line: str) -> None:
        """
        Change what it publishes.

        :param line: see tools.soak.camera.
        """
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def kill(self) -> None:
        """End it as -9 does, without a farewell."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


class Usage(NamedTuple):
    """
    What a process holds.

    :param resident_kib: memory.
    :param threads: number of threads.
    :param files: number of open files.
    :param gpu_kib: memory of the GPU that is taken, by whatever process; 0 where there is none.
    """

    resident_kib: int
    threads: int
    files: int
    gpu_kib: int


def usage(pid: int) -> Usage:
    """
    Ask the system what a process holds.

    :param pid: its number.
    :return: the present usage.
    """
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    values = dict(line.split(':', 1) for line in lines)
    files = sum(1 for _ in Path(f'/proc/{pid}/fd').iterdir())
    return Usage(int(values['VmRSS'].split()[0]), int(values['Threads']), files, _gpu_kib())


def _gpu_kib() -> int:
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return (total - free) // 1024
