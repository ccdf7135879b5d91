# SPDX-License-Identifier: Apache-2.0
"""Frees the shared memory that killed processes leave behind."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path('/dev/shm')


def clear_shared_memory() -> str:
    """
    Remove Fast DDS's segments that no living process holds.

    By `fastdds shm clean` where that tool is; else each file that no process has mapped or open.

    :return: how it was done.
    """
    tool = shutil.which('fastdds', path=str(Path(sys.executable).parent)) or shutil.which(
        'fastdds'
    )
    if tool:
        run = subprocess.run([tool, 'shm', 'clean'], capture_output=True, check=False, timeout=60)
        if run.returncode == 0:
            return 'fastdds shm clean'
    held = _held()
    for path in FOLDER.glob('fastrtps_*'):
        # The lock of a segment is held for as long as its process lives.
        if not held & {path.name, path.name.removesuffix('_el'), f'{path.name}_el'}:
            path.unlink(missing_ok=True)
    return 'removal of files that no process holds'


def _held() -> set[str]:
    """Find the files of FOLDER that some process has mapped or open."""
    names: set[str] = set()
    for process in Path('/proc').iterdir():
        if not process.name.isdigit():
            continue
        try:
            maps = (process / 'maps').read_text().splitlines()
            links = [str(link.readlink()) for link in (process / 'fd').iterdir()]
        except OSError:  # it has ended, or is another user's
            continue
        paths = [line.split(maxsplit=5)[-1] for line in maps if f'{FOLDER}/' in line] + links
        names |= {Path(path).name for path in paths if path.startswith(str(FOLDER))}
    return names
