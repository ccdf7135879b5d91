# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on sets of labelled images of any size, which may be partly unlabelled."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.labels import BACKGROUND, CLASS_NAMES, NEEDLE, NO_DECISION, THREAD
from surgseg_ros.core.results import InputFrame
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.frames import read_image_file
from surgseg_ros.evaluation.layout import FrameError, LabelledImage, find_labelled
from surgseg_ros.evaluation.metrics import (
    NEAR_PX,
    NEAR_WIDTH_PX,
    SCORED,
    TOOLS,
    FrameCounts,
    NearCounts,
    count_frame,
    count_near,
    pooled_iou,
    summarize,
    summarize_near,
)
from surgseg_ros.evaluation.pairs import read_mask
from surgseg_ros.evaluation.predict import PredictOptions

THIN: Final = {'needle': NEEDLE, 'thread': THREAD}
"""Thin classes, which are scored with a tolerance, by their keys in the JSON file."""


class LabelledCounts(NamedTuple):
    """The counts of one image: of all classes, and of thin classes by their keys in THIN."""

    classes: FrameCounts
    thin: Mapping[str, NearCounts]


def find_sets(folders: Sequence[Path]) -> dict[str, list[LabelledImage]]:
    """
    Find sets of labelled images.

    :param folders: folders that contain `images/` and `masks/`.
    :return: pairs by name. Folders of the same name get the names of as many parents as needed to
        distinguish them.
    :raises FrameError: if a folder is given twice, or cannot be used.
    """
    paths = [folder.resolve() for folder in folders]
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise FrameError(f'{str(folders[index])!r} is given twice: give each folder once')
    parts = 1
    while len({path.parts[-parts:] for path in paths}) < len(paths):
        parts += 1
    return {
        '/'.join(path.parts[-parts:]): find_labelled(folder)
        for path, folder in zip(paths, folders, strict=True)
    }


def measure(
    segmenter: Segmenter,
    sets: Mapping[str, Sequence[LabelledImage]],
    left_out: Collection[int] = (),
) -> dict[str, Any]:
    """
    Run a model over sets of labelled images, and score the masks that `predict` would write.

    :param segmenter: the model.
    :param sets: name to pairs, see `find_sets`.
    :param left_out: classes that count as background in truth and prediction.
    :return: values for a JSON file: `model`, `left_out`, `tolerance` and `sets`; see
        `summarize_labelled`.
    :raises FrameError: if an image cannot be read, or its mask has another size.
    :raises MaskError: if the file of a mask is not a mask.
    :raises Exception: exceptions of the network.
    """
    pipeline, measured = PredictOptions().pipeline(segmenter), {}
    with tqdm(total=sum(map(len, sets.values())), unit='frame', leave=False) as bar:
        for name, pairs in sets.items():
            bar.set_description(name)
            counts = []
            for pair in pairs:
                image, truth = _read(pair)
                decision = pipeline.segment(segmenter, InputFrame(image))
                if decision.error:
                    raise decision.error
                counts.append(count_labelled(truth, decision.mask, left_out))
                bar.update()
            measured[name] = {'frames': len(pairs), **summarize_labelled(counts)}
    return {
        'model': segmenter.described(),
        'left_out': [CLASS_NAMES[label] for label in sorted(set(left_out))],
        'tolerance': {'px': NEAR_PX, 'at_width_px': NEAR_WIDTH_PX},
        'sets': measured,
    }


def _read(pair: LabelledImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Decode the image and its truth, in which NO_DECISION means that a pixel is not labelled."""
    image, truth = read_image_file(pair.image), read_mask(pair.mask)
    if image.shape[:2] != truth.shape:
        sizes = [f'{array.shape[1]}x{array.shape[0]}' for array in (truth, image)]
        raise FrameError(
            f'{pair.mask}: is {sizes[0]}, {pair.image} is {sizes[1]}: both must have the same size'
        )
    if truth.min() == NO_DECISION:
        raise FrameError(
            f'{pair.mask}: is {NO_DECISION} (not labelled) everywhere: label it, or remove it and '
            'its image'
        )
    return image, truth


def count_labelled(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], left_out: Collection[int] = ()
) -> LabelledCounts:
    """
    Count the pixels of one image.

    :param truth: (H, W) uint8 class index; pixels with NO_DECISION are not labelled, and are
        counted neither in truth nor in prediction.
    :param predicted: (H, W) uint8 class index; NO_DECISION counts as a wrong class.
    :param left_out: classes that count as background in both.
    :return: the counts.
    :raises ValueError: if the truth contains another value.
    """
    kept = np.arange(256, dtype=np.uint8)
    kept[list(left_out)] = BACKGROUND
    labelled = truth != NO_DECISION
    truth, predicted = kept[truth], np.where(labelled, kept[predicted], BACKGROUND)
    return LabelledCounts(
        count_frame(truth[labelled], predicted[labelled], edges=False),
        {key: count_near(truth == label, predicted == label) for key, label in THIN.items()},
    )


def summarize_labelled(images: Sequence[LabelledCounts]) -> dict[str, Any]:
    """
    Compute the scores of a set.

    :param images: the counts; at least one.
    :return: `official_miou`, the mean over images of the mean over classes, 1 for a class that is
        absent in both masks; `official_miou_floor`, the same for a prediction of background only;
        `tools_iou`, of TOOLS as if they were one class; `class_iou`, by name `pooled` (over all
        pixels of all images) and `present` (the mean over the images whose truth has the class);
        `needle` and `thread`, `precision`, `recall` and `f1`, see `summarize_near`. None
        if the denominator is 0.
    """
    frames = [image.classes for image in images]
    summary = summarize({'': frames})
    of_class = zip(summary['pooled_class_IoU'], summary['present_class_IoU'], strict=True)
    return {
        'official_miou': summary['mIoU'],
        'official_miou_floor': summary['floor']['mIoU'],
        'tools_iou': pooled_iou(frames, TOOLS),
        'class_iou': {
            CLASS_NAMES[label]: {'pooled': pooled, 'present': present}
            for label, (pooled, present) in zip(SCORED, of_class, strict=True)
        },
        **{key: summarize_near([image.thin[key] for image in images]) for key in THIN},
    }
