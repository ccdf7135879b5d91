# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing: libFuzzer keeps what reaches new code, and spoils that further."""

import argparse
import random
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=['rosbags', 'surgseg_ros.messages']):
    from surgseg_ros.messages.types import TYPES as STORE
    from tools.fuzz import checks
    from tools.fuzz.malformed import BYTES, FIELDS

LONGEST_S = 20
MOST_MEMORY_MB = 4096
LARGEST_MESSAGE_BYTES = 1 << 16


def main() -> None:
    """Fuzz one kind of message; libFuzzer ends the process, with an error where it found one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('kind', choices=checks.TYPES)
    parser.add_argument('seconds', type=int)
    parser.add_argument('seed', type=int)
    parser.add_argument('found', help='where what is found is written')
    parser.add_argument('corpus', nargs='+', type=Path, help='the first grows')
    given = parser.parse_args()
    _instrument_generated_code()
    changes = (*BYTES, *FIELDS[given.kind])

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        spoiled = bytearray(data)
        chance.choice(changes)(chance, spoiled)
        return bytes(spoiled[:most])

    options = {
        'max_total_time': given.seconds,
        'seed': given.seed,
        'timeout': LONGEST_S,
        'rss_limit_mb': MOST_MEMORY_MB,
        'max_len': LARGEST_MESSAGE_BYTES,
        'artifact_prefix': given.found,
        'print_final_stats': 1,
    }
    atheris.Setup(
        [
            'fuzz',
            *(f'-{name}={value}' for name, value in options.items()),
            *map(str, given.corpus),
        ],
        lambda data: checks.check(data, given.kind),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def _instrument_generated_code() -> None:
    """Watch the functions that rosbags makes while it runs, which have no import to hook."""
    for name in (*checks.TYPES.values(), 'std_msgs/msg/Header', 'builtin_interfaces/msg/Time'):
        definition: Any = STORE.get_msgdef(name)
        atheris.instrument_func(definition.deserialize_cdr_le)
        atheris.instrument_func(definition.deserialize_cdr_be)


if __name__ == '__main__':
    main()
