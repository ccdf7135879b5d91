# SPDX-License-Identifier: Apache-2.0
"""`make soak`: runs the node under random faults, and measures the delay until stale."""

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from surgseg_ros.core.gates import GATES
from surgseg_ros.core.model_folder import ModelSpec, read_spec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.core.self_test import add_self_test
from surgseg_ros.node.middleware import local_discovery
from tools.soak.injections import INJECTIONS, Setup
from tools.soak.processes import ROOT, usage
from tools.soak.shared_memory import clear_shared_memory
from tools.soak.watch import NAMESPACE, Watch

STALE_AFTER_MS: Final = 500
ALLOWED_MS: Final = 50.0
LARGEST_GROWTH: Final = 0.02
VALID: Final = ('valid',)
_APART: Final = 35
"""Minimum distance of restarts in images: two within 30 look like two alternating cameras."""
LIMITED: Final = ('valid', 'degraded')
"""States of a running node: with a model not for research, the best is degraded."""


class Check(NamedTuple):
    """
    One property that was checked.

    :param what: the property.
    :param found: the result.
    :param holds: whether it holds.
    """

    what: str
    found: str
    holds: bool


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the soak test, and write the results.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 1 if a check fails.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.soak', description=__doc__)
    add = parser.add_argument
    add('--minutes', type=float, default=20.0, help='of random faults (default: %(default)g)')
    add('--tries', type=int, default=50, help='of a camera that dies (default: %(default)s)')
    add('--cycles', type=int, default=200, help='of the life cycle (default: %(default)s)')
    add('--model', type=Path, help='(default: a small one that keeps up with 30 Hz on two cores)')
    add('--device', default='auto')
    add('--seed', type=int, default=0, help='of the faults (default: %(default)s)')
    add('--output', type=Path, default=ROOT / 'runs/soak', help='for log and result.md')
    options = parser.parse_args(argv)
    os.environ.update(local_discovery(os.environ))
    options.output.mkdir(parents=True, exist_ok=True)
    checks = _run(options)
    rows = [f'| {c.what} | {c.found} | {"yes" if c.holds else "NO"} |' for c in checks]
    text = '\n'.join(['| requirement | measured | met |', '| --- | --- | --- |', *rows])
    (options.output / 'result.md').write_text(text + '\n')
    print(text)
    return 0 if all(check.holds for check in checks) else 1


def _run(options: argparse.Namespace) -> list[Check]:
    log = options.output / 'node.log'
    checks: list[Check] = []
    model = options.model or _small_model(options.output / 'model')
    with _node(model, options.device, log) as node:
        watch = Watch()
        setup = Setup(node, watch, ('--rate', '30', '--size', '640x360'))
        alive = LIMITED if read_spec(model).intended_use != 'research' else VALID
        try:
            watch.wait_for_state(alive, 0)
            if options.tries:
                checks += _stale_tries(setup, options.tries, alive)
            if options.cycles:
                checks.append(_cycles(setup, options.cycles))
            if options.minutes:
                checks += _soak(setup, options.minutes, random.Random(options.seed))
        except RuntimeError as error:  # an expected message did not come
            checks.append(Check('all expected messages come', str(error), False))
        finally:
            checks.append(Check('the node is running', f'{node.poll()}', node.poll() is None))
            setup.camera.kill()
            watch.close()
            clear_shared_memory()
    text = log.read_text()
    checks.append(Check('exits on SIGINT', f'exit status {node.returncode}', node.returncode == 0))
    checks.append(Check('no traceback', f'{text.count("Traceback")}', 'Traceback' not in text))
    return checks


def _small_model(folder: Path) -> Path:
    """Write a model of random weights."""
    spec = ModelSpec(
        name='small',
        encoder='resnet18',
        options={'encoder_depth': 3, 'decoder_channels': [16, 8, 8]},
        input_size=(64, 96),
    )
    torch.manual_seed(0)
    write_model(folder, spec, SegmentationNetwork(spec).state_dict())
    add_self_test(folder)
    return folder


@contextlib.contextmanager
def _node(model: Path, device: str, log: Path) -> Iterator['subprocess.Popen[bytes]']:
    values = {'model': model, 'device': device, 'stale_after_ms': STALE_AFTER_MS}
    values |= {'fail_safe': 'no_decision'}
    # The images do not look like tissue, so the gates are off.
    values |= {f'gates.{name}.action': 'none' for name in GATES}
    given = [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
    command = [sys.executable, '-m', 'surgseg_ros', 'segmenter', '--ros-args']
    with log.open('wb') as file:
        node = subprocess.Popen(
            [*command, '-r', f'__ns:={NAMESPACE}', *given], cwd=ROOT, stdout=file, stderr=file
        )
    try:
        yield node
    finally:
        try:
            node.send_signal(2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(30)
        finally:  # a second Ctrl-C must not leave it running
            node.kill()
            node.wait()


def _stale_tries(setup: Setup, tries: int, alive: tuple[str, ...]) -> list[Check]:
    """Kill and restart the camera repeatedly."""
    late_ms: list[float] = []
    frames: list[int] = []
    while len(late_ms) < tries:
        setup.watch.wait_for_masks(_APART)
        # At a random time between two frames.
        time.sleep(0.033 * len(late_ms) / tries)
        since = len(setup.watch.history)
        if setup.watch.history[-1][0] not in alive:
            continue  # the machine was busy; this try does not count
        killed_ns = time.monotonic_ns()
        setup.camera.kill()
        _, stale_ns, masks = setup.watch.wait_for_state(('stale',), since)
        late_ms.append((stale_ns - killed_ns) / 1e6 - STALE_AFTER_MS)
        since = len(setup.watch.history)
        setup.restart_camera()
        frames.append(setup.watch.wait_for_state(alive, since)[2] - masks)
        if len(late_ms) % 10 == 0:
            clear_shared_memory()
            print(f'{len(late_ms)} tries, {late_ms[-1]:+.1f} ms', flush=True)
    late_ms.sort()
    p99 = late_ms[min(tries - 1, round(0.99 * tries))]
    return [
        Check(
            f'stale at most stale_after_ms ({STALE_AFTER_MS}) plus {ALLOWED_MS:g} ms after the '
            f'camera was killed, p99 of {tries} tries',
            f'p50 {statistics.median(late_ms):+.1f}, p99 {p99:+.1f}, max {late_ms[-1]:+.1f} ms '
            'from stale_after_ms',
            p99 <= ALLOWED_MS,
        ),
        Check(
            f'{alive[0]} again at most two frames after the first one that had a mask',
            f'masks until then: {dict(sorted(Counter(frames).items()))}',
            max(frames) <= 3,
        ),
    ]


def _soak(setup: Setup, minutes: float, rng: random.Random) -> list[Check]:
    """Inject a fault every few seconds."""
    done: Counter[str] = Counter()
    for injection in INJECTIONS.values():  # once each, so that all needed memory is allocated
        injection(setup, rng)
        setup.watch.wait_for_masks(5)
    resident: list[int] = []
    end_s = time.monotonic() + 60 * minutes
    while time.monotonic() < end_s:
        name, injection = rng.choice([*INJECTIONS.items()])
        injection(setup, rng)
        done[name] += 1
        setup.watch.wait_for_masks(5)
        time.sleep(rng.uniform(1.0, 4.0))
        resident.append(usage(setup.node.pid).resident_kib)
        if sum(done.values()) % 10 == 0:
            print(f'{sum(done.values())} faults, {resident[-1] >> 10} MiB', flush=True)
            clear_shared_memory()
    part = max(1, len(resident) // 5)
    first, last = (statistics.median(p) / 1024 for p in (resident[:part], resident[-part:]))
    growth = last / first - 1
    injections = setup.watch.injections
    return [
        Check(
            f'{minutes:g} minutes at 30 Hz: every mask fits its image in size and header',
            f'{setup.watch.masks} masks ({setup.watch.without_image} without a decision while '
            f'stale), {len(injections)} do not match {injections[:1] or ""}',
            not injections,
        ),
        Check(
            'faults',
            ', '.join(f'{name} {count}' for name, count in done.most_common()),
            sum(done.values()) > 0,
        ),
        Check(
            'resident memory flat within 2 % (medians of the first and the last fifth)',
            f'{first:.0f} to {last:.0f} MiB, {100 * growth:+.2f} %',
            abs(growth) <= LARGEST_GROWTH,
        ),
    ]


def _cycles(setup: Setup, cycles: int) -> Check:
    """Run through the life cycle repeatedly."""
    held = []
    for _ in range(cycles):
        for label in ('deactivate', 'cleanup', 'configure', 'activate'):
            setup.watch.change(label)
        setup.watch.wait_for_masks(1)
        held.append(usage(setup.node.pid))
    part = max(1, cycles // 5)
    resident_mib, gpu_mib = (
        [statistics.median(of_one(u) for u in p) / 1024 for p in (held[:part], held[-part:])]
        for of_one in (lambda u: u.resident_kib, lambda u: u.gpu_kib)
    )
    # The maxima, since a thread may be about to end or to start when one of them is counted.
    threads, files = (
        [max(of_one(u) for u in p) for p in (held[:part], held[-part:])]
        for of_one in (lambda u: u.threads, lambda u: u.files)
    )
    flat = threads[1] <= threads[0] and files[1] <= files[0]
    return Check(
        f'{cycles} cycles from active to active without growth of memory, threads, files',
        f'{_growth(*resident_mib)}, threads {threads[0]} to {threads[1]}, files '
        f'{files[0]} to {files[1]}, '
        + (f'of the GPU {_growth(*gpu_mib)}' if gpu_mib[1] else 'no GPU'),
        flat and all(b <= (1 + LARGEST_GROWTH) * a for a, b in (resident_mib, gpu_mib)),
    )


def _growth(first_mib: float, last_mib: float) -> str:
    return f'{first_mib:.0f} to {last_mib:.0f} MiB ({100 * (last_mib / first_mib - 1):+.2f} %)'


if __name__ == '__main__':
    sys.exit(main())
