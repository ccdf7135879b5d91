# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing: libFuzzer keeps inputs that reach new code, and mutates them."""

import argparse
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import atheris

LONGEST_S = 20
MAX_MEMORY_MB = 4096
LARGEST_MESSAGE_BYTES = 1 << 16


def main() -> None:
    """Fuzz one kind of message; libFuzzer ends the process, with an error if it found one."""
    # Imported here, since atheris instruments modules that are imported within this block.
    with atheris.instrument_imports(include=['rosbags', 'surgseg_ros.messages']):
        from tools.fuzz import checks
        from tools.fuzz.malformed import BYTES, FIELDS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('kind', choices=checks.TYPES)
    parser.add_argument('seconds', type=int)
    parser.add_argument('seed', type=int)
    parser.add_argument('found', help='prefix of the files of messages that are found')
    parser.add_argument('corpus', nargs='+', type=Path, help='the first grows')
    given = parser.parse_args()
    _instrument_generated_code(checks.TYPES.values())
    changes = (*BYTES, *FIELDS[given.kind])

    def mutate(data: bytes, maximum: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, maximum))
        corrupted = bytearray(data)
        rng.choice(changes)(rng, corrupted)
        return bytes(corrupted[:maximum])

    atheris.Setup(
        [
            'fuzz',
            *(f'-{name}={value}' for name, value in _options(given).items()),
            *map(str, given.corpus),
        ],
        lambda data: checks.check(data, given.kind),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """List the arguments of libFuzzer."""
    return {
        'max_total_time': given.seconds,
        'seed': given.seed,
        'timeout': LONGEST_S,
        'rss_limit_mb': MAX_MEMORY_MB,
        'max_len': LARGEST_MESSAGE_BYTES,
        'artifact_prefix': given.found,
        'print_final_stats': 1,
    }


def _instrument_generated_code(types: Iterable[str]) -> None:
    """Instrument functions that rosbags generates at run time, which are not imported."""
    from surgseg_ros.messages.serialization import TYPES

    for name in (*types, 'std_msgs/msg/Header', 'builtin_interfaces/msg/Time'):
        definition: Any = TYPES.get_msgdef(name)
        atheris.instrument_func(definition.deserialize_cdr_le)
        atheris.instrument_func(definition.deserialize_cdr_be)


if __name__ == '__main__':
    main()
