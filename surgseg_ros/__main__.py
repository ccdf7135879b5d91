# SPDX-License-Identifier: Apache-2.0
"""The commands: `python -m surgseg_ros VERB`, `surgseg_ros VERB`, `ros2 run surgseg_ros VERB`."""

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import surgseg_ros

if TYPE_CHECKING:
    from surgseg_ros.cli.command import Command


class Verb(NamedTuple):
    """
    A verb of the command line; see `cli/command.py` for its exit status.

    :param target: 'package.module:function', which takes the arguments and returns the exit status
        or raises; only the module of the verb in use is imported.
    :param summary: one line for the list of commands.
    :param leftovers: what remains after an interruption, and how to continue.
    :param is_node: whether it handles SIGINT and SIGTERM itself and exits with 0, as launch
        expects from a node; if input or machine cause a failure, it exits with 1.
    :param limits_spinning: whether to limit busy waiting of torch's threads; a node does this
        itself.
    """

    target: str
    summary: str
    leftovers: str = ''
    is_node: bool = False
    limits_spinning: bool = False


_EARLY: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_NOTHING: Final = 'nothing half-written is left'

VERBS: Final = {
    'segmenter': Verb(
        'surgseg_ros.node.entry_points:run_segmenter',
        'runs the node: images in, masks out',
        is_node=True,
    ),
    'bag_player': Verb(
        'surgseg_ros.cli.bag_player:main', 'publishes the images of a bag', is_node=True
    ),
    'train': Verb(
        'surgseg_ros.cli.models:run_train',
        'trains a model and writes its folder',
        'the same command with --resume continues from the last checkpoint',
    ),
    'evaluate': Verb(
        'surgseg_ros.cli.scores:run_evaluate',
        'scores masks or a model against the ground truth',
        _NOTHING,
    ),
    'predict': Verb(
        'surgseg_ros.cli.predict:main',
        'writes masks of videos or folders as PNG',
        'the same command continues after the masks that exist',
    ),
    'evaluate_bag': Verb(
        'surgseg_ros.cli.evaluate_bag:main',
        'runs a model over a bag, frame by frame',
        'the same command continues after the bags that are finished',
        limits_spinning=True,
    ),
    'inspect_data': Verb(
        'surgseg_ros.cli.data:run_inspect_data', 'reports what a data set contains', _NOTHING
    ),
    'export': Verb(
        'surgseg_ros.cli.models:run_export',
        'makes a model folder for a faster runtime',
        _NOTHING,
    ),
    'compare': Verb(
        'surgseg_ros.cli.compare:main',
        'decides whether a model is worse than another on bags',
        _NOTHING,
    ),
    'calibrate': Verb(
        'surgseg_ros.cli.models:run_calibrate',
        'fits the temperature of a model again, so that its confidence is a probability',
        _NOTHING,
    ),
    'benchmark': Verb(
        'surgseg_ros.cli.benchmark:main',
        'measures the cost of a frame, by stage and over DDS',
        _NOTHING,
    ),
    'make_bag': Verb(
        'surgseg_ros.cli.data:run_make_bag',
        'makes a bag of a video, of images or of a data set',
        'incomplete bags are removed',
    ),
    'synthesize': Verb('surgseg_ros.cli.data:run_synthesize', 'draws synthetic scenes', _NOTHING),
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a verb in this process, which may continue afterwards.

    :param argv: the verb and its arguments; those of the command line by default.
    :return: the exit status; see `command.run`.
    """
    from surgseg_ros.cli.command import run

    arguments = list(sys.argv[1:] if argv is None else argv)
    if (status := _find(arguments)) is not None:
        return status
    _prepare(VERBS[arguments[0]])
    return run(_command(arguments[0]), arguments[1:])


def script() -> NoReturn:
    """Run a verb from the command line or from its executable."""
    # Signals are blocked until their handler is ready: imports take time, hence this import here.
    signal.pthread_sigmask(signal.SIG_BLOCK, _EARLY)
    from surgseg_ros.cli.command import Output, Signals, run

    called = sys.argv[0].rpartition('/')[2]
    arguments = [called, *sys.argv[1:]] if called in VERBS else sys.argv[1:]
    if (status := _find(arguments)) is not None:
        sys.exit(status)
    _prepare(VERBS[arguments[0]])
    command = _command(arguments[0])
    signals = Signals(command, to_zero=VERBS[arguments[0]].is_node)
    signals.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _EARLY)
    sys.stdout = Output(sys.stdout)
    signals.end(run(command, arguments[1:], signals))


def _find(arguments: Sequence[str]) -> int | None:
    """Answer options without a verb, and unknown verbs; return the exit status, else None."""
    if arguments[:1] == ['--version']:
        print(f'surgseg_ros {surgseg_ros.__version__}')
        return 0
    if not arguments or arguments[0] in ('-h', '--help'):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] not in VERBS:
        print(f'surgseg_ros: there is no verb {arguments[0]!r}.\n{_usage()}', file=sys.stderr)
        return 2
    return None


def _prepare(verb: Verb) -> None:
    """Set environment variables that OpenCV and OpenMP read when they are loaded."""
    from surgseg_ros.core.processes import limit_image_size, limit_spinning

    limit_image_size()
    if verb.limits_spinning:
        limit_spinning()


def _command(name: str) -> 'Command':
    from surgseg_ros.cli.command import FAILED, Command

    verb = VERBS[name]
    return Command(name, verb.target, verb.leftovers, failed=1 if verb.is_node else FAILED)


def _usage() -> str:
    """List the verbs, one line each."""
    width = max(map(len, VERBS))
    lines = (f'  {name:<{width}}  {verb.summary}' for name, verb in VERBS.items())
    return '\n'.join(
        (
            'usage: python -m surgseg_ros VERB ... (VERB --help lists its options; --version)',
            *lines,
        )
    )


if __name__ == '__main__':
    script()
