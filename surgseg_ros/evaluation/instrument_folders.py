# SPDX-License-Identifier: Apache-2.0
"""
The folders of a video: its masks, and beside them `instances` and `instruments`.

Each frame has an image of the pixels of its instruments and a JSON file of their keypoints, see
`surgseg_ros.core.instrument_files`. In stereo videos with calibrations,
`video_*/{left,right}`, tips and axes are also located in 3-D.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.content_area import find_content
from surgseg_ros.core.detections import Instrument, instance_image
from surgseg_ros.core.files import make_folder, replacing, writing
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.instrument_files import (
    INSTANCES_FOLDER,
    INSTRUMENTS_FOLDER,
    ListedInstrument,
    instruments_to_json,
    read_instruments,
)
from surgseg_ros.core.keypoints import Geometry
from surgseg_ros.core.labels import BACKGROUND, NO_DECISION
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.results import Decision, FrameResult, complete
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation
from surgseg_ros.core.stereo import CameraResult, LocatedInstrument, locate_instruments
from surgseg_ros.core.stereo_calibration import (
    CALIBRATION_FILE,
    StereoError,
    read_stereo_calibration,
)
from surgseg_ros.evaluation.frames import Source, read_image_file, write_png
from surgseg_ros.evaluation.layout import (
    MASK_FOLDER,
    FrameError,
    find_cameras,
    find_images,
    find_masks,
    find_videos,
    find_views,
    image_of,
    official_name,
)
from surgseg_ros.evaluation.pairs import EvaluationError, read_mask, read_values

T = TypeVar('T')

_BOTH: Final = 2


class OutputError(ValueError):
    """An output folder that cannot be used; the message names it and a remedy."""


class Locator:
    """
    Finds tips and axes in the frames of stereo videos whose images are rectified.

    :param root: the data set; videos without calibrations of both cameras are left out.
    :raises StereoError: if a calibration cannot be used.
    """

    def __init__(self, root: Path) -> None:
        """Read the calibrations."""
        self._calibrations = {}
        self._reasons = Counter[str]()
        for video in find_videos(root):
            files = [camera / CALIBRATION_FILE for camera in find_cameras(video).values()]
            if files and all(file.is_file() for file in files):
                name = official_name(video.name)
                self._calibrations[name] = read_stereo_calibration(*files)

    def locate(self, video: str, cameras: Sequence[Decision]) -> list[LocatedInstrument]:
        """
        Find the 3-D positions of instruments; empty without a calibration or a decision.

        :param video: name of the video.
        :param cameras: the results of one frame, in the order of CAMERAS.
        :return: as `locate_instruments` returns them.
        """
        calibration = self._calibrations.get(video)
        seen = [
            CameraResult(camera.mask, camera.instruments, camera.segmentation.roi)
            for camera in cameras
            if isinstance(camera, FrameResult) and camera.is_decided
        ]
        if calibration is None or len(seen) < _BOTH:
            return []
        try:
            return locate_instruments(calibration, *seen)
        except StereoError as error:
            self._reasons[str(error)] += 1
            return []

    def report(self) -> str:
        """Report why nothing could be located, and in how many frames; empty if there is none."""
        return '; '.join(f'nothing in 3-D ({n} times): {x}' for x, n in self._reasons.items())


def group_frames(
    cameras: Sequence[Iterable[tuple[Any, T]]],
) -> Iterator[tuple[Any, list[tuple[int, T]]]]:
    """
    Group the frames of several cameras by their numbers or names.

    :param cameras: for each camera, pairs of an ascending number or name and any data.
    :return: each number or name, with the indices and data of the cameras that have it.
    """

    def numbered(index: int, camera: Iterable[tuple[Any, T]]) -> Iterator[tuple[Any, int, T]]:
        return ((number, index, frame) for number, frame in camera)

    merged = merge(*(numbered(*camera) for camera in enumerate(cameras)), key=itemgetter(0, 1))
    for number, frames in groupby(merged, key=itemgetter(0)):
        yield number, [(index, frame) for _, index, frame in frames]


OF_INSTRUMENTS: Final = (INSTANCES_FOLDER, INSTRUMENTS_FOLDER)


class InstrumentFrame(NamedTuple):
    """
    The instruments of a frame.

    :param instances: (H, W) uint8, instrument number of each pixel; none for 0 or NO_DECISION.
    :param listed: the instruments.
    """

    instances: NDArray[np.uint8]
    listed: Sequence[ListedInstrument]


def read_frame(instances: Path) -> InstrumentFrame:
    """
    Read the instruments of a frame.

    :param instances: the image in `instances/`; its JSON file is in `instruments/` beside that.
    :return: the instruments.
    :raises ValueError: if a file cannot be read, or does not list a number that is in the image.
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
    path: Path,
    segmentation: Segmentation,
    instruments: Sequence[Instrument],
    located: Sequence[LocatedInstrument] = (),
) -> None:
    """
    Write the instruments of a mask into the folders of its video, which must exist.

    :param path: file of the mask, in a folder beside these.
    :param segmentation: with the mask, and the roi if there is one.
    :param instruments: the instruments in the mask; at most 254 are written.
    :param located: those whose 3-D position is known.
    :raises OSError: if they cannot be written.
    """
    mask = segmentation.mask
    is_decided = bool(mask.min() < NO_DECISION)
    found = instruments[: NO_DECISION - 1] if is_decided else ()
    geometries = find_geometries(found, mask, segmentation.roi)
    located_of = {id(one.instrument): one for one in located}
    listed = [
        _listed(number, one, geometry, located_of.get(id(one)))
        for number, (one, geometry) in enumerate(zip(found, geometries, strict=True), 1)
    ]
    write_listed(path, instance_image(found, mask), listed, is_decided=is_decided)


def write_listed(
    path: Path,
    instances: NDArray[np.uint8],
    listed: Sequence[ListedInstrument],
    *,
    is_decided: bool = True,
) -> None:
    """
    Write the list of instruments of a mask, and the image of their pixels.

    :param path: file of the mask, see `write_instruments`.
    :param instances: (H, W) uint8, number of the instrument of each pixel.
    :param listed: the instruments.
    :param is_decided: whether there is a decision.
    :raises OSError: if they cannot be written.
    """
    video = path.parents[1]
    write_png(video / INSTANCES_FOLDER / path.name, instances)
    with replacing(video / INSTRUMENTS_FOLDER / f'{path.stem}.json', sync=False) as partial:
        partial.write_bytes(instruments_to_json(listed, is_decided=is_decided))


def _listed(
    number: int, instrument: Instrument, geometry: Geometry, located: LocatedInstrument | None
) -> ListedInstrument:
    named = instrument.track_id, instrument.score
    listed = ListedInstrument(number, instrument.label, geometry, *named)
    if located is None:
        return listed
    sigmas_m = np.sqrt(np.diag(located.covariance)[:3])
    tip, axis, sigma = (
        (float(x), float(y), float(z)) for x, y, z in (located.tip_m, located.axis, sigmas_m)
    )
    return listed._replace(tip_m=tip, axis=axis, tip_sigma_m=sigma)


def predict_from_masks(
    masks: Path, output: Path, settings: PipelineSettings, locator: Locator
) -> int:
    """
    Write the instruments of existing masks; all pixels get a confidence of 1.

    Instruments are cut off where NO_DECISION begins, if it surrounds a rectangle or a circle, as
    in the masks of a region of interest.

    :param masks: folder of `video_*/segmentation`, or of `video_*/{left,right}/segmentation`.
    :param output: folder in which the folders of each video are created.
    :param settings: only `least_area`, `track_lost_ms` and `roi_mode` are used. With ROI_AUTO, the
        images beside the masks show which part the endoscope fills; outside there is no decision.
    :param locator: computes the 3-D positions in stereo videos.
    :return: the number of masks.
    :raises ValueError: if there are none, one is not a mask, or an image is missing.
    :raises OSError: if a file cannot be written.
    """
    views = find_views(masks)
    total = sum(len(find_masks(view)) for view in views.values())
    if not total:
        raise FrameError(
            f'{str(masks)!r} holds no video_*/{MASK_FOLDER}/*.png: give the folder that holds the '
            'videos'
        )
    if CameraPipeline(settings).finds_roi:  # before hours of work
        for view in views.values():
            images = find_images(view)
            for path in find_masks(view):
                image_of(path, images)
    with tqdm(total=total, unit='frame', leave=False) as bar:
        for video, names in groupby(views, lambda name: name.split('/')[0]):
            cameras = {output / name: views[name] for name in names}
            for count in _predict_video(video, cameras, settings, locator):
                bar.update(count)
    return total


def _predict_video(
    video: str, cameras: Mapping[Path, Path], settings: PipelineSettings, locator: Locator
) -> Iterator[int]:
    """Write the instruments of a video, and yield the number of masks of each frame."""
    outputs = list(cameras)
    pipelines = [_begin(folder, settings) for folder in outputs]
    images = [find_images(view) for view in cameras.values()]
    paths = [[(path.name, path) for path in find_masks(view)] for view in cameras.values()]
    for _, frames in group_frames(paths):
        results = [_find(pipelines[n], path, images[n], settings) for n, path in frames]
        located = locator.locate(video, results)
        for (camera, path), result in zip(frames, results, strict=True):
            written = outputs[camera] / MASK_FOLDER / path.name
            found = result.segmentation, result.instruments
            write_instruments(written, *found, () if camera else located)
        yield len(frames)


def _begin(video: Path, settings: PipelineSettings) -> CameraPipeline:
    for folder in OF_INSTRUMENTS:
        make_folder(video / folder)
    return CameraPipeline(settings)


def _find(
    pipeline: CameraPipeline, path: Path, images: Mapping[int, Path], settings: PipelineSettings
) -> FrameResult:
    """Find the instruments of a mask; the images are those of its video, by number."""
    mask, roi = read_mask(path), None
    if pipeline.finds_roi:
        roi = pipeline.find_roi(_image_of(path, mask, images))
    decision = Decision(_with_full_confidence(mask, roi), least_area=settings.least_area)
    result = pipeline.track(complete(decision))
    if result.error:
        raise result.error
    return result


def _image_of(
    path: Path, mask: NDArray[np.uint8], images: Mapping[int, Path]
) -> NDArray[np.uint8]:
    """Read the image of a mask."""
    image = read_image_file(image_path := image_of(path, images))
    if image.shape[:2] != mask.shape:
        raise FrameError(
            f'{path}: has {mask.shape[::-1]} columns and rows, its image {image_path} '
            f'{image.shape[1::-1]}: both must have the same size'
        )
    return image


def _with_full_confidence(mask: NDArray[np.uint8], roi: Roi | None) -> Segmentation:
    """Create a segmentation of a region, None for all, with a confidence of 1 everywhere."""
    whole = Roi(0, 0, mask.shape[1], mask.shape[0])
    confidence = GridConfidence(np.full((1, 1), 255, np.uint8), whole)
    part = _segmented_part(mask)
    if roi is None or part is not None:
        return Segmentation(mask, grid_confidence=confidence, roi=part)
    inside = np.full_like(mask, NO_DECISION)
    np.maximum(roi.view(mask), roi.outside(), out=roi.view(inside))
    return Segmentation(inside, grid_confidence=confidence, roi=roi)


_MIN_DECIDED: Final = 0.6
"""Minimum share of a rectangle, or of that around a circle (0.79 of it), with a decision."""


def _segmented_part(mask: NDArray[np.uint8]) -> Roi | None:
    """Find the part of a mask outside which there is no decision; None if it is the whole mask."""
    decided = mask != NO_DECISION
    rows, columns = (np.flatnonzero(decided.any(axis)) for axis in (1, 0))
    if not len(rows) or decided.all():
        return None
    (top, bottom), (left, right) = ((int(x[0]), int(x[-1]) + 1) for x in (rows, columns))
    if decided[top:bottom, left:right].mean() < _MIN_DECIDED:
        return None
    content = find_content(np.repeat(decided[..., None] * np.uint8(255), 3, axis=2))
    return Roi(left, top, right - left, bottom - top, content.circle if content else None)


def make_folders(video: Path, instruments: bool) -> Path:
    """
    Create the folders of a video.

    :param video: folder of the video.
    :param instruments: whether instruments are written, too.
    :return: the folder for masks.
    """
    for name in (MASK_FOLDER, *(OF_INSTRUMENTS if instruments else ())):
        with writing(video / name):
            make_folder(video / name)
    return video / MASK_FOLDER


def check_names(source: Source) -> None:
    """
    Check that no two images would have masks of the same name.

    :param source: the images.
    :raises FrameError: if two names differ only in suffix or case.
    """
    found: dict[str, Path] = {}
    for number in source.names:
        image = source.images[number]
        other = found.setdefault(image.stem.lower(), image)
        if other is not image:
            raise FrameError(
                f'{other} and {image.name}: both masks would be {image.stem}.png; rename one'
            )


def find_done(folder: Path, source: Source) -> set[int]:
    """
    Find the frames whose masks exist.

    :param folder: the folder for masks.
    :param source: the frames.
    :return: their numbers.
    :raises OutputError: if a file there is not named as masks are.
    """
    numbers = {name: number for number, name in source.names.items()}
    done = set()
    for mask in sorted(folder.glob('*.png')):
        if mask.stem not in numbers and (numbers or not mask.stem.isdecimal()):
            expected = 'like an image' if numbers else 'by the number of a frame'
            raise OutputError(
                f'{mask}: is not named {expected}, as masks are: remove it, or name another output'
            )
        done.add(numbers[mask.stem] if numbers else int(mask.stem))
    return done
