# SPDX-License-Identifier: Apache-2.0
"""Writes the lock file for CI: exact versions of the requirements, as in this environment."""

import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
LEFT_OUT: Final = {'', 'fuzz'}
"""Extras that `make setup` does not install."""


def main() -> int:
    """
    Write the lock file for this Python.

    :return: exit status.
    """
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    path = ROOT / 'tools' / 'ros_from_pypi' / f'lock-{version}.txt'
    lines = [f'{name}=={number}' for name, number in sorted(versions('surgseg_ros').items())]
    head = f'# What CI installs with Python {version}, Linux, x86-64; made by python -m tools.lock'
    path.write_text('\n'.join([head, *lines]) + '\n')
    print(f'{len(lines)} versions in {path}')
    return 0


def versions(package: str) -> dict[str, str]:
    """
    Find the requirements of a package, recursively, as installed here.

    :param package: its name.
    :return: version by name, without the package itself.
    """
    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    extras = distribution(package).metadata.get_all('Provides-Extra') or []
    waiting = [(package, extra) for extra in ('', *extras) if extra not in LEFT_OUT - {''}]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker and not needed.marker.evaluate({'extra': extra}):
                continue
            other = canonicalize_name(needed.name)
            found[other] = distribution(other).version
            waiting += [(other, of) for of in ('', *needed.extras)]
    return found


if __name__ == '__main__':
    sys.exit(main())
