# SPDX-License-Identifier: Apache-2.0
"""The commands: `python -m surgseg_ros VERB`, the same as `ros2 run surgseg_ros VERB`."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple


class Verb(NamedTuple):
    """
    One command.

    :param target: 'package.module:function'; only the verb that is called is imported.
    :param summary: one line for the list of commands.
    """

    target: str
    summary: str


VERBS: Final = {
    'segmenter': Verb('surgseg_ros.node.segmenter:main', 'the node: images in, masks out'),
    'bag_player': Verb('surgseg_ros.node.bag_player:main', "publishes a bag's images"),
    'train': Verb('surgseg_ros.training.train:main', 'trains a model, writes its folder'),
    'evaluate': Verb('surgseg_ros.evaluation.evaluate:main', 'scores masks against the truth'),
    'predict': Verb('surgseg_ros.evaluation.predict:main', 'masks of videos or folders as PNG'),
    'evaluate_bag': Verb(
        'surgseg_ros.lockstep.evaluate_bag:main', 'a bag through a model, frame by frame'
    ),
    'inspect_data': Verb('surgseg_ros.training.inspect_data:main', 'what a data set holds'),
    'export': Verb(
        'surgseg_ros.exporting.export:main', 'makes a model folder for a faster runtime'
    ),
    'compare': Verb(
        'surgseg_ros.lockstep.compare:main', 'whether a model is worse than another on bags'
    ),
    'calibrate': Verb('surgseg_ros.calibrate:main', 'makes the confidence a probability, anew'),
    'benchmark': Verb('surgseg_ros.benchmark:main', 'what a frame costs, by stage and over DDS'),
    'make_bag': Verb('surgseg_ros.make_bag:main', 'a bag of a video, of pictures, or a data set'),
    'synthesize': Verb('surgseg_ros.synthesize:main', 'makes synthetic scenes'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one verb.

    :param argv: the verb and its arguments; those of the command line by default.
    :return: the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ('-h', '--help'):
        print(_usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in VERBS:
        print(f'surgseg_ros: there is no verb {name!r}.\n{_usage()}', file=sys.stderr)
        return 2
    module, function = VERBS[name].target.split(':')
    status: int = getattr(importlib.import_module(module), function)(rest)
    return status


def _usage() -> str:
    """List the verbs, one line each."""
    width = max(map(len, VERBS))
    lines = (f'  {name:<{width}}  {verb.summary}' for name, verb in VERBS.items())
    return '\n'.join(
        ('usage: python -m surgseg_ros VERB ... (--help after a verb says more)', *lines)
    )


if __name__ == '__main__':
    sys.exit(main())
