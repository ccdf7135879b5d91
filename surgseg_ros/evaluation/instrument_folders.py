# SPDX-License-Identifier: Apache-2.0
"""
The folders `instances` and `instruments` of a video, beside its masks: written and read.

Each frame has an image of the pixels of its instruments and a JSON file of their points, see
`surgseg_ros.core.instrument_files`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.detections import Instrument, instance_image
from surgseg_ros.core.files import make_folder, replacing
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.instrument_files import (
    INSTANCES_FOLDER,
    INSTRUMENTS_FOLDER,
    ListedInstrument,
    instruments_to_json,
    read_instruments,
)
from surgseg_ros.core.labels import BACKGROUND, NO_DECISION
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.results import Decision, complete
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation
from surgseg_ros.evaluation.frames import write_png
from surgseg_ros.evaluation.layout import (
    MASK_FOLDER,
    FrameError,
    find_masks,
    find_videos,
    official_name,
)
from surgseg_ros.evaluation.pairs import EvaluationError, read_mask, read_values

OF_INSTRUMENTS: Final = (INSTANCES_FOLDER, INSTRUMENTS_FOLDER)


class InstrumentFrame(NamedTuple):
    """
    The instruments of a frame.

    :param instances: (H, W) uint8, number of the instrument of each pixel; 0 or NO_DECISION: none.
    :param listed: the instruments.
    """

    instances: NDArray[np.uint8]
    listed: Sequence[ListedInstrument]


def read_frame(instances: Path) -> InstrumentFrame:
    """
    Read the instruments of a frame.

    :param instances: the image in `instances/`; its JSON file is in `instruments/` beside that.
    :return: the instruments.
    :raises ValueError: if a file cannot be read, or lists no instrument of a number in the image.
    """
    path = instances.parents[1] / INSTRUMENTS_FOLDER / f'{instances.stem}.json'
    listed, numbers = read_instruments(path), read_values(instances)
    known = {BACKGROUND, NO_DECISION, *(instrument.number for instrument in listed)}
    if unknown := set(np.flatnonzero(np.bincount(numbers.ravel())).tolist()) - known:
        raise EvaluationError(
            f'{instances}: holds pixels of number {min(unknown)}, which {path} does not list: '
            'write both again'
        )
    return InstrumentFrame(numbers, listed)


def write_instruments(
    path: Path, segmentation: Segmentation, instruments: Sequence[Instrument]
) -> None:
    """
    Write the instruments of a mask into the folders of its video, which must exist.

    :param path: of the mask, in a folder beside these.
    :param segmentation: with the mask, and the roi if there is one.
    :param instruments: those in the mask; at most 254 are written.
    :raises OSError: if they cannot be written.
    """
    video, mask = path.parents[1], segmentation.mask
    is_decided = bool(mask.min() < NO_DECISION)
    found = instruments[: NO_DECISION - 1] if is_decided else ()
    geometries = find_geometries(found, mask, segmentation.roi)
    listed = []
    for place, (one, geometry) in enumerate(zip(found, geometries, strict=True), 1):
        listed.append(ListedInstrument(place, one.label, geometry, one.track_id, one.score))
    write_png(video / INSTANCES_FOLDER / path.name, instance_image(found, mask))
    with replacing(video / INSTRUMENTS_FOLDER / f'{path.stem}.json', sync=False) as partial:
        partial.write_bytes(instruments_to_json(listed, is_decided=is_decided))


def predict_from_masks(masks: Path, output: Path, settings: PipelineSettings) -> int:
    """
    Write the instruments of masks that are given; all their pixels count as sure.

    :param masks: folder of `video_*/segmentation/*.png`.
    :param output: gets the folders of each video.
    :param settings: `least_area` and `track_lost_ms` count.
    :return: the number of masks.
    :raises ValueError: if there are none, or one is not a mask.
    :raises OSError: if a file cannot be written.
    """
    videos = {official_name(video.name): find_masks(video) for video in find_videos(masks)}
    total = sum(map(len, videos.values()))
    if not total:
        raise FrameError(
            f'{str(masks)!r} holds no video_*/{MASK_FOLDER}/*.png: give the folder that holds the '
            'videos'
        )
    with tqdm(total=total, unit='frame', leave=False) as bar:
        for name, paths in videos.items():
            for folder in OF_INSTRUMENTS:
                make_folder(output / name / folder)
            pipeline = CameraPipeline(settings)
            for path in paths:
                decision = Decision(_sure(read_mask(path)), least_area=settings.least_area)
                result = pipeline.track(complete(decision))
                if result.error:
                    raise result.error
                place = output / name / MASK_FOLDER / path.name
                write_instruments(place, result.segmentation, result.instruments)
                bar.update()
    return total


def _sure(mask: NDArray[np.uint8]) -> Segmentation:
    """Give a mask a confidence of 1 everywhere."""
    whole = Roi(0, 0, mask.shape[1], mask.shape[0])
    return Segmentation(
        mask, grid_confidence=GridConfidence(np.full((1, 1), 255, np.uint8), whole)
    )
