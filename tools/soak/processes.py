# SPDX-License-Identifier: Apache-2.0
"""The process of the camera, and the resource usage of processes."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import torch

ROOT: Final = Path(__file__).resolve().parents[2]


class CameraProcess:
    """
    A camera process that can be killed, paused and reconfigured.

    :param topic: the topic on which it publishes.
    :param options: options of tools.soak.camera.
    """

    def __init__(self, topic: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tools.soak.camera', '--topic', topic, *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
        )

    def report(self, line: str) -> None:
        """
        Send a command to the camera.

        :param line: see tools.soak.camera.
        """
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


class Usage(NamedTuple):
    """
    The resources of a process.

    :param resident_kib: resident memory.
    :param threads: number of threads.
    :param files: number of open files.
    :param gpu_kib: used memory of the GPU, by any process; 0 without a GPU.
    """

    resident_kib: int
    threads: int
    files: int
    gpu_kib: int


def usage(pid: int) -> Usage:
    """
    Read the resources of a process from the system.

    :param pid: id of the process.
    :return: the current usage.
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
