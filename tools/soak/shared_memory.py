# SPDX-License-Identifier: Apache-2.0
"""Removes shared memory that killed processes left behind."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path('/dev/shm')


def clear_shared_memory() -> str:
    """
    Remove Fast DDS segments that no running process uses.

    Uses `fastdds shm clean` if it exists; otherwise, removes files that no process has mapped or
    open.

    :return: the method that was used.
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
        # The lock of a segment is held while its process runs.
        if not held & {path.name, path.name.removesuffix('_el'), f'{path.name}_el'}:
            path.unlink(missing_ok=True)
    return 'removal of files that no process uses'


def _held() -> set[str]:
    """Return the files in FOLDER that a process has mapped or open."""
    names: set[str] = set()
    for process in Path('/proc').iterdir():
        if not process.name.isdigit():
            continue
        try:
            maps = (process / 'maps').read_text().splitlines()
            links = [str(link.readlink()) for link in (process / 'fd').iterdir()]
        except OSError:  # it has ended, or belongs to another user
            continue
        paths = [line.split(maxsplit=5)[-1] for line in maps if f'{FOLDER}/' in line] + links
        names |= {Path(path).name for path in paths if path.startswith(str(FOLDER))}
    return names
