# SPDX-License-Identifier: Apache-2.0
"""Makes models/demo from nothing: draws scenes, trains, scores on other scenes, writes a card."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros import synthesize
from surgseg_ros.core.fitting import fit, fit_mask
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.model_spec import read_model, write_model
from surgseg_ros.core.regions import drop_small_regions
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.margins import LeastMargins
from surgseg_ros.evaluation.metrics import count_frame, summarize
from surgseg_ros.evaluation.regions import LeastRegions
from surgseg_ros.training import train
from surgseg_ros.training.scenes import Scene
from tools.demo_model.card import card

FINISH: Final = 'config/train_demo_finish.yaml'
LEGS: Final = {
    'rough': ['config/train_demo.yaml'],
    'finer': [FINISH],
    'trained': [FINISH, 'seed=2', 'learning_rate=0.0006'],
}
"""Folder to file and settings, in order: each leg goes on from the one before."""

SIZE: Final = (720, 1280)
RATE_HZ: Final = 15.0
FRAMES: Final = tuple(range(0, 100, 25))
"""Few frames of a scene, far apart: many scenes teach more than many frames."""

LAST_BIAS: Final = 'layers.segmentation_head.0.bias'

TRAINING_SEED: Final = 1
TRAINING_SCENES: Final = 320
TUNING_SEEDS: Final = range(800_000, 800_040)
TEST_SEEDS: Final = range(900_000, 900_030)
"""Scenes of these seeds are drawn neither for training nor for tuning."""


def main() -> int:
    """
    Make the model, or only score one that is trained already.

    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.demo_model', description=__doc__)
    add = parser.add_argument
    add('--work', type=Path, default=Path('runs/demo_model'), help='scenes and training run')
    add('--output', type=Path, default=Path('models/demo'), help='the model folder')
    add('settings', nargs='*', metavar='key=value', help='given to `train`')
    options = parser.parse_args()
    scenes, start = options.work / 'scenes', ''
    if not scenes.exists() and (status := _draw(scenes)):
        return status
    for name, (config, *settings) in LEGS.items():
        trained = options.work / name
        if not trained.exists():
            settings += [f'data={scenes}', f'output={trained}', f'start={start}']
            if status := train.main(['--config', config, *settings, *options.settings]):
                return status
        start = trained
    _finish(_calibrate(trained, options.work / 'calibrated'), options.output)
    return 0


def _draw(scenes: Path) -> int:
    """Draw under another name first, so that a folder of this name is whole."""
    partial = scenes.with_name(scenes.name + '.partial')
    arguments = {
        'output': partial,
        'videos': TRAINING_SCENES,
        'frames': len(FRAMES),
        'stride': FRAMES[1],
        'size': f'{SIZE[1]}x{SIZE[0]}',
        'rate': RATE_HZ,
        'seed': TRAINING_SEED,
    }
    words = [word for key, value in arguments.items() for word in (f'--{key}', str(value))]
    status = synthesize.main([*words, '--jpeg'])
    if not status:
        partial.rename(scenes)
    return status


def _calibrate(trained: Path, folder: Path) -> Path:
    """Ask of each class the lead that serves it best, by the bias of the last layer."""
    spec, weights = read_model(trained)
    segmenter = Segmenter.load(trained, 'cpu')
    margins = LeastMargins()
    for _, image, mask in _drawn(TUNING_SEEDS, 'calibrating'):
        with torch.inference_mode():
            fitted = fit(torch.from_numpy(image)[None], spec.input_size, spec.fit)
            logits = segmenter.runtime(fitted)[0].numpy()
        truth = fit_mask(torch.from_numpy(mask)[None], spec.input_size, spec.fit, NO_DECISION)
        margins.add(truth[0].numpy(), logits)
    asked = margins.tune()
    weights[LAST_BIAS] = weights[LAST_BIAS] - torch.tensor(asked)
    training = {**spec.training, 'margins': asked}
    write_model(folder, dataclasses.replace(spec, training=training), weights)
    return folder


def _finish(trained: Path, output: Path) -> None:
    """Tune the filter, score, and write model and card."""
    segmenter = Segmenter.load(trained, 'cpu')
    regions = LeastRegions()
    for _, truth, predicted in _segmented(segmenter, TUNING_SEEDS, 'tuning'):
        regions.add(truth, predicted)
    least = regions.tune()
    scores = _score(segmenter, least)
    spec, weights = read_model(trained)
    scores = {**spec.scores, 'unseen_scenes': scores}
    written = dataclasses.replace(spec, least_region=least, scores=scores)
    written = write_model(output, written, weights)
    (output / 'README.md').write_text(card(written))
    test = scores['unseen_scenes']
    print(f'{output}: mIoU {test["raw"]["mIoU"]:.3f}, filtered {test["filtered"]["mIoU"]:.3f}, '
          f'floor {test["floor"]:.3f}')  # fmt: skip


def _score(segmenter: Segmenter, least: tuple[float, ...]) -> dict[str, Any]:
    """Official and present-frame values on the test scenes, raw and filtered."""
    raw: dict[str, Any] = {}
    filtered: dict[str, Any] = {}
    for name, truth, predicted in _segmented(segmenter, TEST_SEEDS, 'scoring'):
        kept = drop_small_regions(predicted, least)
        raw.setdefault(name, []).append(count_frame(truth, predicted))
        filtered.setdefault(name, []).append(count_frame(truth, kept))
    frames = [frame for video in raw.values() for frame in video]
    absent = np.mean([frame.truth_px == 0 for frame in frames], 0)
    return {
        'seeds': [TEST_SEEDS.start, TEST_SEEDS.stop - 1],
        'frames': len(frames),
        'floor': float(absent.mean()),
        'class_floor': absent.tolist(),
        'raw': _selected(raw),
        'filtered': _selected(filtered),
    }


def _selected(videos: dict[str, Any]) -> dict[str, Any]:
    summary = summarize(videos)
    classes = [video['class_mIoU'] for video in summary['videos'].values()]
    return {
        **{key: summary[key] for key in ('mIoU', 'mNSD', 'score')},
        'class_mIoU': np.mean(classes, 0).tolist(),
        'present_class_IoU': summary['present_class_IoU'],
    }


def _segmented(
    segmenter: Segmenter, seeds: range, what: str
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Name of the scene, truth, and the mask that the node would publish."""
    for name, image, mask in _drawn(seeds, what):
        yield name, mask, segmenter.segment(image).mask


def _drawn(seeds: range, what: str) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Name of the scene, picture and truth."""
    for seed in tqdm(seeds, what, unit='scene', leave=False):
        scene = Scene(seed, SIZE, RATE_HZ)
        for index in FRAMES:
            frame = scene.frame(index)
            yield f'scene {seed}', frame.image, frame.mask


if __name__ == '__main__':
    sys.exit(main())
