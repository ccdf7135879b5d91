# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: a hundred thousand malformed messages, then others guided by coverage."""

import argparse
import faulthandler
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tools.fuzz.checks import TYPES, check
from tools.fuzz.malformed import malformed
from tools.fuzz.seeds import seeds

ROOT: Final = Path(__file__).resolve().parents[2]
CORPUS: Final = ROOT / 'test' / 'messages' / 'corpus'
LONGEST_S: Final = 60.0
"""Timeout of a message on a busy machine; then the process prints its stack, and ends."""


def main() -> int:
    """
    Fuzz both kinds of image message.

    :return: exit status; 0 only if all guarantees held.
    """
    parser = argparse.ArgumentParser(prog='fuzz', description=__doc__)
    parser.add_argument('--number', type=int, default=100_000, help='of refused messages')
    parser.add_argument('--seconds', type=int, default=120, help='guided, for each kind')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--output', type=Path, default=ROOT / 'runs' / 'fuzz')
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    reported = {}
    for kind in TYPES:
        reported[kind] = refuse(kind, given.seed, given.number // len(TYPES))
        print(kind, json.dumps(reported[kind], indent=1), flush=True)
    (given.output / 'malformed.json').write_text(json.dumps(reported, indent=1) + '\n')
    statuses = [guide(kind, given) for kind in TYPES if given.seconds]
    return max(statuses, default=0)


def refuse(kind: str, seed: int, number: int) -> dict[str, Any]:
    """
    Check malformed messages until a number of them was rejected.

    :param kind: a key of TYPES.
    :param seed: of the random choice.
    :param number: how many must be refused.
    :return: numbers of refused messages by cause, and of those that gave a mask of the right size
        and header ('' and 'mask'); the slowest in seconds, and the peak memory in MB.
    :raises ViolatedGuaranteeError: if a guarantee did not hold.
    """
    causes: Counter[str] = Counter()
    slowest_s = 0.0
    for cdr in malformed(kind, seed):
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        started_s = time.monotonic()
        causes[check(cdr, kind) or 'mask'] += 1
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        if causes.total() - causes['mask'] >= number:
            break
    faulthandler.cancel_dump_traceback_later()
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {'causes': dict(causes), 'slowest_s': round(slowest_s, 3), 'memory_mb': memory_mb}


def guide(kind: str, given: argparse.Namespace) -> int:
    """
    Fuzz one kind guided by coverage, in a new process.

    :param kind: a key of TYPES.
    :param given: seconds, seed and output.
    :return: the exit status; other than 0 if a guarantee did not hold: the message is in output.
    """
    grown, sown = given.output / kind, given.output / f'{kind}_seeds'
    grown.mkdir(exist_ok=True)
    sown.mkdir(exist_ok=True)
    for name, cdr in seeds(kind).items():
        (sown / name).write_bytes(cdr)
    numbers = (str(given.seconds), str(given.seed))
    found = f'{given.output}/{kind}-'
    command = [sys.executable, '-m', 'tools.fuzz.guided', kind, *numbers, found]
    command += [str(folder) for folder in (grown, sown, CORPUS / kind)]
    with (given.output / f'{kind}.log').open('w') as log:
        status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode
    lines = Path(log.name).read_text(errors='replace').splitlines()
    print(f'{kind}, guided: exit status {status}', *lines[-8:], sep='\n', flush=True)
    return status


if __name__ == '__main__':
    sys.exit(main())
