# SPDX-License-Identifier: Apache-2.0
"""
The verb `evaluate_bag`: runs bags through a model, frame by frame, without ROS running.

Exit status: 0 if everything was evaluated; 1 if a bag is damaged, or nothing of one of several
bags could be evaluated, but the rest was (the JSON file reports it too); 2 if nothing was
evaluated or written, for example because no image yielded a mask; 130 after Ctrl-C.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from surgseg_ros.bag_evaluation.archive import Store, find_bags, is_bag, plan, run
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bag_evaluation.runners import Runner, in_processes, on_ray, run_serial
from surgseg_ros.bags.reading import BagError
from surgseg_ros.cli.arguments import (
    MODEL_HELP,
    PRECISION_HELP,
    fraction,
    non_negative_float,
    positive_int,
)
from surgseg_ros.core.files import (
    check_file,
    check_folder,
    check_new_folder,
    check_new_path,
    new_folder,
    write_atomically,
)
from surgseg_ros.core.parameters import DEFAULTS, PRECISIONS
from surgseg_ros.core.params_file import (
    GivenParameters,
    add_parameter_arguments,
    resolve_parameters,
)
from surgseg_ros.core.runtimes import AUTO, RUNTIMES
from surgseg_ros.core.segmentation import ROI_FIXED, ROI_MODES
from surgseg_ros.reports import FILE_NAME

OUTPUT_SUFFIX: Final = '.mcap'


def main(argv: Sequence[str] | None = None) -> int:
    """
    Evaluate bags.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status: 0 or 1; see the module.
    :raises ValueError: if bags, model or device cannot be used at all.
    :raises OSError: if nothing can be written.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if error := _option_error(arguments):
        parser.error(error)
    parameters = _parameters(arguments)
    if arguments.bag and parameters.model is None:
        parser.error('--bag needs a model, and the parameter model is empty: name one')
    paths = arguments.recorded or arguments.bag
    _check_targets(arguments, paths)
    if text := parameters.ignored_line():
        print(f'evaluate_bag: {text}', file=sys.stderr)
    if arguments.report:
        # Imported before the work, in case Matplotlib is not usable, but only if it is needed.
        from surgseg_ros.bag_evaluation.report import write_report
    is_one = len(paths) == 1 and is_bag(paths[0])
    bags = find_bags(paths, arguments.output)
    outputs = _outputs(arguments.output, list(bags), is_one)
    store = None if is_one else Store(arguments.work or _work_folder(arguments.json))
    with _made(arguments, store) as making:
        options = replace(_options(arguments, parameters, store), instruments=making)
        merged = run(plan(bags, outputs, options), _runner(arguments), store, options)
    write_atomically(arguments.json, (json.dumps(merged, indent=1) + '\n').encode())
    print(summary(merged))
    if arguments.report:
        print(f'report: {write_report(arguments.report, merged, bags, outputs)}')
    for line in describe_problems(merged):
        print(f'evaluate_bag: {line}', file=sys.stderr)
    damaged = any(numbers['damage'] for numbers in merged['bags'].values())
    return 1 if damaged or merged['unreadable'] else 0


@contextmanager
def _made(arguments: argparse.Namespace, store: Store | None) -> Iterator[Path | None]:
    """Yield the folder for instruments, if requested; remove it if the block raises."""
    with store.kept() if store else nullcontext():
        if not arguments.instruments:
            yield None
            return
        with new_folder(arguments.instruments) as making:
            yield making


def _parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(prog='surgseg_ros evaluate_bag', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--bag', type=Path, nargs='+', metavar='BAG',
        help='bags, or folders of bags, to send through --model')
    what.add_argument('--recorded', type=Path, nargs='+', metavar='BAG',
        help="bags that hold a node's masks on --mask-topic, to score these")
    add('--model', metavar='DIR', help=f'{MODEL_HELP}; also the parameter model')
    add('--image-topic', required=True, metavar='TOPIC', help='Image or CompressedImage')
    add('--ground-truth-topic', metavar='TOPIC',
        help='true masks, by the stamps of their images: mono8, or PNG in a CompressedImage')
    add('--mask-topic', metavar='TOPIC', help='only with --recorded')
    add('--tolerance-ms', type=non_negative_float, default=0.0, metavar='MS',
        help='largest difference of the stamps of image and truth (default: 0)')
    _add_outputs(parser)
    add_parameter_arguments(parser)
    _add_execution(parser)
    # fmt: on
    return parser


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add('--output', type=Path, metavar='OUT.mcap',
        help='the bag to make, with mask, detections and label_info; for several bags, a folder')
    add('--json', type=Path, required=True, metavar='FILE', help='file for the numbers')
    add('--report', type=Path, metavar='DIR',
        help='gets report.html: scores over time, the worst frames as images, tables')
    add('--confidence', action='store_true', help='write the confidence to the output bag too')
    add('--instruments', type=Path, metavar='DIR',
        help='a new folder, gets video_BAG/instances/ and video_BAG/instruments/ for evaluate '
        '--instruments: what the model found, or with --recorded what the node published on '
        'instances, detections and keypoints beside --mask-topic; frames are numbered in the '
        'order of the images, from 0')
    # fmt: on


def _add_execution(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add('--roi', type=int, nargs=4, metavar=('X', 'Y', 'WIDTH', 'HEIGHT'),
        help="the endoscope's part of the images; outside it the mask is 255")
    add('--roi-mode', choices=ROI_MODES,
        help='fixed: that of --roi; auto: found in the images, by the edges of black borders '
        f'(default: {ROI_FIXED})')
    add('--least-area', type=fraction, metavar='SHARE',
        help="minimum area of a detection, as a share of the image's (default: the node's, "
        f'{DEFAULTS["least_area"]:g})')
    add('--device', help='auto, cpu, cuda or cuda:N (default: auto)')
    add('--runtime', choices=(AUTO, *RUNTIMES), help='default: auto')
    add('--precision', choices=PRECISIONS, help=PRECISION_HELP)
    add('--threads', type=positive_int, metavar='N',
        help="torch's threads on the CPU (default: the parameter cpu_threads, or torch's choice, "
        'shared among --workers; if --work has results, as many as they were made with)')
    add('--workers', type=positive_int, default=1, metavar='N',
        help='processes, one bag each at a time (default: 1)')
    add('--ray', metavar='ADDRESS',
        help='Ray cluster that evaluates the bags: its address, auto, or local')
    add('--work', type=Path, metavar='DIR',
        help='folder for the results of finished bags, if there are several (default: FILE.work)')
    # fmt: on


def _option_error(arguments: argparse.Namespace) -> str:
    """Describe options that exclude each other; empty if there are none."""
    topics = arguments.image_topic, arguments.ground_truth_topic, arguments.mask_topic
    given = [name for name in topics if name is not None]
    if len(set(given)) < len(given):
        return f'images, ground truth and masks are on different topics, not {", ".join(given)}'
    if arguments.roi and (min(arguments.roi[:2]) < 0 or min(arguments.roi[2:]) < 1):
        return f'--roi {" ".join(map(str, arguments.roi))} is not a part of an image'
    if arguments.recorded:
        if arguments.model or arguments.output:
            return '--recorded scores what a node published: leave out --model and --output'
        if arguments.params_file or arguments.param:
            return '--recorded scores what a node published: leave out --params-file and --param'
        return '' if arguments.mask_topic else '--recorded needs --mask-topic'
    if arguments.ray and arguments.instruments:
        return '--ray runs on other machines: leave it out, or --instruments'
    if arguments.ray and arguments.workers > 1:
        return '--ray and --workers exclude each other: Ray determines the number of workers'
    return '--mask-topic needs --recorded' if arguments.mask_topic else ''


def _parameters(arguments: argparse.Namespace) -> GivenParameters:
    """Read the node's parameters; options of the same meaning override them."""
    options = {
        'model': arguments.model,
        'device': arguments.device,
        'runtime': arguments.runtime,
        'precision': arguments.precision,
        'cpu_threads': arguments.threads,
        'roi': arguments.roi,
        'roi_mode': arguments.roi_mode,
        'least_area': arguments.least_area,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return resolve_parameters(arguments, given)


def _options(
    arguments: argparse.Namespace, parameters: GivenParameters, store: Store | None
) -> Options:
    values = parameters.values
    # Fixed, since other processes and machines would choose another number, and sums of floats
    # would differ.
    threads = values['cpu_threads'] or max(1, torch.get_num_threads() // arguments.workers)
    if store is not None and not values['cpu_threads']:
        threads = store.threads(threads)
    return Options(
        image_topic=arguments.image_topic,
        ground_truth_topic=arguments.ground_truth_topic,
        mask_topic=arguments.mask_topic,
        tolerance_ns=round(arguments.tolerance_ms * 1e6),
        model=parameters.model.resolve() if arguments.bag and parameters.model else None,
        device=values['device'],
        runtime=values['runtime'],
        precision=values['precision'],
        threads=threads,
        roi=parameters.roi,
        pipeline=parameters.pipeline,
        confidence=arguments.confidence,
    )


def _check_targets(arguments: argparse.Namespace, bags: Sequence[Path]) -> None:
    """Check that results can be written, before a long computation."""
    check_file(arguments.json)
    if arguments.report:
        check_file(arguments.report / FILE_NAME)
    output = arguments.output and arguments.output.resolve()
    if output in [path.resolve() for path in bags]:
        raise BagError(f'--output {str(output)!r} is where the bags are: choose another path')
    if output:
        (check_new_path if output.suffix == OUTPUT_SUFFIX else check_folder)(output)
    if arguments.work:
        check_folder(arguments.work)
    if arguments.instruments:
        check_new_folder(arguments.instruments)


def _outputs(output: Path | None, names: Sequence[str], is_one: bool) -> dict[str, Path]:
    """Return the paths of the output bags."""
    if output is None:
        return {}
    if is_one and output.suffix != OUTPUT_SUFFIX:
        raise BagError(f'--output {str(output)!r} must end with {OUTPUT_SUFFIX}')
    if is_one:
        return {names[0]: output.resolve()}
    if output.is_file() or output.suffix == OUTPUT_SUFFIX:
        raise BagError(f'--output {str(output)!r} must be a folder: there are several bags')
    of_output: dict[Path, str] = {}
    for name in names:
        stem = name.removesuffix('.mcap').removesuffix('.db3')
        path = output.resolve() / f'{stem}{OUTPUT_SUFFIX}'
        if (other := of_output.setdefault(path, name)) != name:
            raise BagError(
                f'bags {other!r} and {name!r} would both become {str(path)!r}: rename one, or '
                'evaluate them one by one'
            )
    return {name: path for path, name in of_output.items()}


def _work_folder(path: Path) -> Path:
    return path.with_name(f'{path.name}.work')


def _runner(arguments: argparse.Namespace) -> Runner:
    if arguments.ray:
        return on_ray(arguments.ray)
    return in_processes(arguments.workers) if arguments.workers > 1 else run_serial


def summary(merged: dict[str, Any]) -> str:
    """
    Format the scores as tables.

    :param merged: the JSON file's content.
    :return: the text.
    """
    names = ('frames', 'with_ground_truth', 'dropped', 'failed', 'undecided', 'rejected')
    lines = [f'{name:18}{merged[name]:8}' for name in names]
    if merged['mIoU'] is not None:
        floor = merged['floor']
        lines += ['', f'{"":18}{"score":>8}{"floor":>8}']
        lines += [f'{key:18}{merged[key]:8.4f}{floor[key]:8.4f}' for key in floor]
    if merged['latency_ms']:
        lines += ['', f'{"ms":18}{"p50":>8}{"p95":>8}{"p99":>8}']
    for stage, times in merged['latency_ms'].items():
        lines.append(f'{stage:18}' + ''.join(f'{value:8.1f}' for value in times.values()))
    return '\n'.join((*lines, '', f'masks: sha256 {merged["mask_sha256"]}'))


def describe_problems(merged: dict[str, Any]) -> list[str]:
    """
    Describe losses, failures and messages that were left out.

    :param merged: the JSON file's content.
    :return: lines; empty if there are none.
    """
    lines = [f'{name}: {text}' for name, text in merged['unreadable'].items()]
    for name, numbers in merged['bags'].items():
        if numbers['damage']:
            lines.append(f'{name}: {numbers["damage"]}')
        lines += [f'{name}: {x["count"]} times, first: {x["first"]}' for x in numbers['troubles']]
        truth = numbers['ground_truth'] or {}
        for kind in ('unmatched', 'ambiguous'):
            if truth.get(kind):
                lines.append(f'{name}: {truth[kind]} of {truth["messages"]} truths are {kind}')
        if anomalies := {kind: n for kind, n in numbers['frames_by_stamp'].items() if n}:
            counts = ', '.join(f'{n} {kind}' for kind, n in anomalies.items())
            lines.append(f'{name}: anomalous stamps of images: {counts}')
    return lines
