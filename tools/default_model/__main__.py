# SPDX-License-Identifier: Apache-2.0
"""
Creates models/default from scratch: draws scenes, trains, scores, and writes the model card.

The encoder starts from ImageNet weights, which `tools.encoder_weights` reads from a package.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from surgseg_ros.core.files import check_folder
from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_model, write_model
from surgseg_ros.core.runtimes.pytorch import TorchRuntime
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.self_test import add_self_test
from surgseg_ros.evaluation.layout import IMAGE_FOLDERS
from surgseg_ros.synthetic import Scene
from surgseg_ros.training.model_card import model_card
from surgseg_ros.training.module import kept_weights
from surgseg_ros.training.scoring import (
    ValidationFrame,
    score,
    tune_min_region,
    tune_temperature,
    with_margins,
)
from tools.default_model.pasting import paste
from tools.encoder_weights import main as make_encoder_file
from tools.runs import StepError, Videos, draw, train_once

RECIPE: Final = Path('config/train_default.yaml')
CONTINUED_RECIPE: Final = Path('config/train_default_traced.yaml')
"""Recipes: of the first run on drawn scenes; of both that continue it, on path traced ones too."""

ON_TWO_CORES: Final = ('device=cpu', 'devices=2', 'strategy=ddp', 'batch_size=2')
"""Two processes of one thread are three times faster than one of two; they share the batch."""

SCENES: Final = Videos(seed=42, videos=1400, frames=2, stride=40, size=(360, 640), jpeg=False)
"""Few frames per scene, far apart: more scenes are better than more frames of a scene."""

TRACED_SCENES: Final = 120
"""Number of path traced scenes, of two images each; a scene takes nine seconds on two cores."""

BARE_SCENES: Final = 35
"""Number of path traced scenes without instruments, of two images each."""

DRAWN_VIDEOS: Final = 110
"""Number of drawn videos, of two images each, in the second and the third run."""

AVERAGED: Final = (3000, 4000, 5000, 6000)
"""
The weights of the first run are the mean of those after these steps. Later weights are better on
synthetic scenes, but worse on real images.
"""

CONTINUED_AVERAGED: Final = (1600, 2000, 2400)
"""Steps of the second and the third run whose weights are averaged; all runs' mean is shipped."""

MARGINS: Final = (1.5, 0.0, 0.0, 0.0, 3.5, 3.0, 3.0, 6.0, 4.0, 6.0)
"""Margin in logits by which each class must lead to be chosen, in the order of CLASS_NAMES."""

COLOURS: Final = {'target': [90.0, 90.0, 90.0], 'power': 0.4}
"""Value of `colour_normalization` in model.json."""

_PATHS: Final = ('data', 'output', 'start', 'encoder_weights', 'frame_cache', 'cache')
"""Settings of a recipe that are paths."""

AFTER_TRAINING: Final = f"""\
## Before and after training
The first run is on drawn scenes; two others continue it on {TRACED_SCENES} path traced scenes and
{DRAWN_VIDEOS} of the drawn ones, the last of them also on {2 * BARE_SCENES} path traced images of
tissue alone, as they are and below instruments of other scenes. The weights are the mean of the
three runs: of those after {', '.join(map(str, AVERAGED))} steps of the first, and after
{', '.join(map(str, CONTINUED_AVERAGED))} steps of the others.

Real instruments differ from synthetic ones more than real tissue does from synthetic tissue, so
the network takes much of a real instrument for background. Therefore the background has a margin
of {MARGINS[0]:g} logits, and the colours of each image are moved towards a medium grey before the
network (`colour_normalization`). Rare classes had more weight in training, so they have margins
too: needle {MARGINS[4]:g}, thread {MARGINS[5]:g}, suction tool {MARGINS[6]:g},
needle holder {MARGINS[7]:g}, clamps {MARGINS[8]:g}, catheter {MARGINS[9]:g}.
These values were selected by scores on labelled images of real operations, which were not used
for training.

## What it does not find
It finds no needle holder and hardly a catheter, and no suction tool or clamp of a real operation:
it takes them for background or for other classes. Of a real wrist, clasper or needle it finds a
part; see the tables of real operations above.
"""

ABOUT_REAL: Final = (
    'They show real operations, were published with masks, and were not used for training. But '
    'margins and colours were selected by these scores, and scenes and recipe with regard to '
    'them: on other images, scores are lower.'
)

TUNING_SEEDS: Final = range(800_000, 800_015)
TEST_SEEDS: Final = range(900_000, 900_030)
TEST_FRAMES: Final = range(0, 100, 25)
"""Seeds of scenes that are used neither for training nor for tuning."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Create the model, or only score a trained one.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.measured and not options.trained:
        parser.error('--measured is given, which is for a trained model: add --trained')
    try:
        check_folder(options.output)
        if options.trained:
            spec, weights = read_model(options.trained)
        else:
            spec, weights = _train(options)
        _finish(spec, weights, options.output, options.measured)
    except StepError as error:
        print(f'default_model: ended at {error}', file=sys.stderr)
        return 2
    except (ModelError, OSError) as error:
        print(f'default_model: {error}', file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m tools.default_model', description=__doc__)
    add = parser.add_argument
    add('--work', type=Path, default=Path('runs/default_model'), help='scenes and training runs')
    add('--output', type=Path, default=Path('models/default'), help='the model folder')
    add('--encoder-weights', type=Path, metavar='FILE', help='instead of those of the package')
    add('--trained', type=Path, metavar='DIR', help='score this model again; nothing is trained')
    add(
        '--measured',
        type=Path,
        nargs='+',
        default=(),
        metavar='JSON',
        help='with --trained: scores of it by `evaluate --labelled`, for the card',
    )
    add(
        '--blender-python',
        type=Path,
        default=Path('.venv.blender/bin/python'),
        metavar='FILE',
        help='the interpreter that has bpy, see tools/path_tracing (default: %(default)s)',
    )
    add('settings', nargs='*', metavar='key=value', help='given to all runs of `train`')
    return parser


def _train(options: argparse.Namespace) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Run all steps up to the averaged weights; first check what may be missing."""
    work = options.work
    encoder = _encoder_weights(work, options.encoder_weights)
    check_blender(options.blender_python)
    own = [*ON_TWO_CORES, *options.settings]
    drawn = draw(work / 'scenes', SCENES)
    settings = [f'data={drawn}', f'encoder_weights={encoder}', *own]
    spec, first = _mean_of_run(train_once(RECIPE, work / 'trained', settings), AVERAGED)
    write_model(work / 'first', spec, first)
    traced = trace(work / 'traced', TRACED_SCENES, options.blender_python)
    bare = trace(work / 'bare', BARE_SCENES, options.blender_python, '--bare')
    videos = [*_videos(traced, TRACED_SCENES), *_videos(drawn, DRAWN_VIDEOS)]
    more = [*_videos(bare, BARE_SCENES), *_pasted(work / 'pasted', bare, traced, drawn)]
    parts, runs = [first], []
    for end, data in (('', videos), ('_bare', [*videos, *more])):
        mixed = _link(work / f'mixed{end}', data)
        settings = [f'data={mixed}', f'start={work / "first"}', *own]
        continued = train_once(CONTINUED_RECIPE, work / f'continued{end}', settings)
        spec, weights = _mean_of_run(continued, CONTINUED_AVERAGED)
        parts.append(weights)
        runs.append({key: spec.training[key] for key in _OF_A_RUN})
    training = {**spec.training, 'averaged_with_start': True, 'averaged_runs': runs}
    return dataclasses.replace(spec, training=training), average_weights(parts)


_OF_A_RUN: Final = ('recipe', 'training_videos', 'training_frames', 'averaged_steps')
"""The keys of each run that is averaged with the first, in the model's specification."""

_HAS_BLENDER: Final = """
import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) is None for name in ('bpy', 'cv2')))
"""


def check_blender(python: Path) -> None:
    """
    Check the interpreter for path tracing, before hours of other work.

    :param python: the interpreter that should have bpy and OpenCV.
    :raises ModelError: if it does not exist, or lacks them.
    """
    if not python.exists() or subprocess.run([str(python), '-c', _HAS_BLENDER]).returncode:
        raise ModelError(
            f'{python}: there is no such interpreter with bpy and cv2; create it as '
            'tools/path_tracing/__main__.py says, or use --blender-python'
        )


def trace(folder: Path, scenes: int, python: Path, *options: str) -> Path:
    """
    Render the path traced scenes that are missing.

    :param folder: folder of the videos.
    :param scenes: number of scenes.
    :param python: the interpreter that has bpy.
    :param options: more options for `tools.path_tracing`.
    :return: the folder.
    :raises StepError: if a scene cannot be rendered.
    """
    command = [str(python), '-m', 'tools.path_tracing', '--output', str(folder), *options]
    count = min(len(os.sched_getaffinity(0)), scenes)
    with ExitStack() as stack:  # processes of one thread each use the cores best
        processes = []
        for part in np.array_split(range(scenes), count):
            own = ['--first', str(part[0]), '--scenes', str(len(part))]
            processes.append(stack.enter_context(subprocess.Popen([*command, *own])))
            stack.callback(processes[-1].kill)  # if this is interrupted; else it has ended
        statuses = [process.wait() for process in processes]
    if any(statuses):
        raise StepError(f'rendering {folder}')
    return folder


def _videos(data: Path, count: int) -> list[Path]:
    return sorted(data.glob('video_*'))[:count]


def _pasted(folder: Path, bare: Path, traced: Path, drawn: Path) -> list[Path]:
    """Put instruments of drawn and path traced scenes, in turn, over the tissue of bare ones."""
    tissues = [image for video in _videos(bare, BARE_SCENES) for image in _images(video)]
    sources = zip(_videos(drawn, SCENES.videos)[DRAWN_VIDEOS:], _videos(traced, TRACED_SCENES))
    videos = [video for pair in sources for video in pair]
    return _videos(paste(folder, zip(tissues, videos)), len(tissues))


def _images(video: Path) -> list[Path]:
    return sorted(video.glob(f'{IMAGE_FOLDERS[0]}/*'))


def _link(folder: Path, videos: Iterable[Path]) -> Path:
    """Make a data set of links to videos, which are numbered."""
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():
        link.unlink()
    for number, video in enumerate(videos, 1):
        (folder / f'video_{number:04d}').symlink_to(video.resolve())
    return folder


def _mean_of_run(trained: Path, steps: Sequence[int]) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Average the weights of several steps; the scores are of others, so they are left out."""
    spec, _ = read_model(trained)
    paths = [kept_weights(trained / 'run', step) for step in steps]
    training = {**spec.training, 'steps_done': max(steps), 'averaged_steps': [*steps]}
    weights = average_weights([safetensors.torch.load_file(path) for path in paths])
    return dataclasses.replace(spec, training=training, scores={}), weights


def _encoder_weights(work: Path, given: Path | None) -> Path:
    made = given or work / 'encoder.safetensors'
    if given and not given.exists():
        raise ModelError(f'{given}: there is no such file; without it, a package is used')
    if not made.exists() and make_encoder_file(['--output', str(made)]):
        raise StepError(f'making {made}')
    return made


def _finish(
    spec: ModelSpec, weights: Mapping[str, Tensor], output: Path, measured: Sequence[Path]
) -> None:
    """Prepare the model for real images, score it on unseen scenes, and write model and card."""
    if not spec.training.get('margins'):
        spec, weights = _for_real_images(spec, weights)
    first, last = TEST_SEEDS.start, TEST_SEEDS.stop - 1
    segmenter = Segmenter(spec, TorchRuntime(spec, weights, 'cpu'))
    test = {
        **score(segmenter, lambda: _draw_frames(TEST_SEEDS), spec.least_region),
        'seeds': [first, last],
        'about': f'Scenes of the seeds {first} to {last}, of {SCENES.size[1]}x{SCENES.size[0]} '
        'pixels, which were used neither for training nor for tuning.',
    }
    scores = {'unseen_scenes': test, **_labelled_scores(measured, spec.weights_sha256)}
    training = without_folders(spec.training)
    write_model(output, dataclasses.replace(spec, scores=scores, training=training), weights)
    written = add_self_test(output)
    (output / 'README.md').write_text(model_card(written) + '\n' + AFTER_TRAINING)
    print(f'{output}: mIoU {test["raw"]["mIoU"]:.3f}, filtered {test["filtered"]["mIoU"]:.3f}, '
          f'floor {test["floor"]["mIoU"]:.3f}; calibration error '
          f'{test["calibration"]["before"]["ece"]:.4f} without the temperature, '
          f'{test["calibration"]["after"]["ece"]:.4f} with it')  # fmt: skip


def without_folders(training: Mapping[str, Any]) -> dict[str, Any]:
    """
    Reduce the paths of recipes to their last names: other machines lack the folders of this one.

    :param training: `training` of a model.json.
    :return: the same, with the names.
    """
    return {
        key: without_folders(value)
        if isinstance(value, Mapping)
        else Path(value).name
        if key in _PATHS and isinstance(value, str)
        else value
        for key, value in training.items()
    }


def average_weights(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """
    Average weights of the same network.

    :param parts: the same tensors in each.
    :return: the mean of each tensor, in its own dtype.
    """
    return {
        key: torch.stack([part[key].float() for part in parts]).mean(0).to(first.dtype)
        for key, first in parts[0].items()
    }


def _labelled_scores(measured: Iterable[Path], weights_sha256: str) -> dict[str, Any]:
    """Read the scores that `evaluate --labelled` has written for these weights, by set."""
    scores = {}
    for path in measured:
        content = json.loads(path.read_text())
        if content['model']['weights_sha256'] != weights_sha256:
            raise ModelError(f'{path}: it is of other weights; measure this model')
        for name, values in content['sets'].items():
            scores[name] = {**values, 'left_out': content['left_out'], 'about': ABOUT_REAL}
    return scores


def _for_real_images(
    spec: ModelSpec, weights: Mapping[str, Tensor]
) -> tuple[ModelSpec, Mapping[str, Tensor]]:
    """Set margins and colours; tune temperature and minimum regions, which depend on them."""
    weights = with_margins(spec, weights, MARGINS)
    training = {**spec.training, 'margins': list(MARGINS)}
    spec = dataclasses.replace(spec, training=training, colour_normalization=COLOURS)
    runtime = TorchRuntime(spec, weights, 'cpu')
    frames = [*_draw_frames(TUNING_SEEDS)]
    temperature = tune_temperature(runtime, spec, lambda: frames)
    spec = dataclasses.replace(spec, temperature=temperature)
    minimum = tune_min_region(Segmenter(spec, runtime), lambda: frames)
    return dataclasses.replace(spec, least_region=minimum), weights


def _draw_frames(seeds: Iterable[int]) -> Iterator[ValidationFrame]:
    """Draw scenes, each as a separate video."""
    for seed in seeds:
        scene = Scene(seed, SCENES.size, SCENES.rate_hz)
        for index in TEST_FRAMES:
            frame = scene.frame(index)
            yield f'scene {seed}', frame.image, frame.mask


if __name__ == '__main__':
    sys.exit(main())
