# SPDX-License-Identifier: Apache-2.0
"""
Finds, decodes and writes frames of images, videos and data sets.

Sources yield them one at a time, with their masks if these are requested.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.files import replacing
from surgseg_ros.core.image_files import (
    ImageFileError,
    check_file,
    decode_rgb,
    encode_png,
    is_image_file,
)
from surgseg_ros.core.processes import refusal
from surgseg_ros.evaluation.layout import (
    IMAGE_FOLDERS,
    IMAGE_NAME,
    VIDEO_FILE,
    FrameError,
    find_images,
    find_video_file,
    find_views,
    has_images,
    images_in,
    masks_by_number,
    official_name,
)
from surgseg_ros.evaluation.pairs import read_truth
from surgseg_ros.evaluation.videos import Video, open_video

PARTIAL: Final = '.part'
"""Suffix of the name of a file while it is being written."""


def read_image_file(path: Path) -> NDArray[np.uint8]:
    """
    Decode an image.

    :param path: a file of any format that OpenCV reads.
    :return: (H, W, 3) uint8 RGB.
    :raises FrameError: if it cannot be decoded, or parts are missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f'{path}: cannot be read ({error.strerror})') from error
    if is_image_file(data):
        try:
            return decode_rgb(check_file(data)).rgb
        except ImageFileError as error:
            raise FrameError(f'{path}: {error}; copy it again') from error
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise FrameError(f'{path}: {refusal(error)}') from error
    if image is None:
        raise FrameError(f'{path}: is not an image that OpenCV reads; copy it again')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_frames(
    path: Path, indices: Iterable[int], data_errors: dict[int, str] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """
    Decode frames of a video by their numbers, counted from 0.

    Numbers come from the file's own index or time stamps, and are not a count of decoded frames: a
    lost frame keeps its number. For an undamaged video they equal the numbers of the data set's
    own tools, which read frame by frame.

    :param path: the video.
    :param indices: ascending, possibly infinite.
    :param data_errors: collects missing and damaged frames with the reason; if None, they raise
        FrameError.
    :return: index and (H, W, 3) uint8 RGB; ends with the video, even if `indices` continue.
    :raises FrameError: if the video, or a requested frame, cannot be decoded.
    """
    yield from open_video(path).read(indices, data_errors)


def write_png(path: Path, image: NDArray[np.uint8], compression: int = 1) -> None:
    """
    Write an image or mask atomically: a file of its name is always complete.

    :param path: path of the file; its folder must exist.
    :param image: (H, W, 3) uint8 RGB, or (H, W) uint8.
    :param compression: level of zlib, 0 to 9.
    :raises OSError: if it cannot be written; nothing is left.
    """
    encoded = encode_png(image, compression)
    with replacing(path, partial=PARTIAL, sync=False) as partial:
        partial.write_bytes(encoded.tobytes())


VIDEO_EVERY: Final = 60
"""SAR-RARP50 has a mask for every 60th frame of its videos, which is one per second."""

_NAMED: Final = 20
"""Maximum number of missing frames of a video that are listed; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    Frames of one video.

    :param name: name of the video in the official layout, such as `video_41`.
    :param numbers: numbers of the frames, ascending; None for every `every`-th of the video.
    :param every: see `numbers`.
    :param images: frames that are image files, by number.
    :param video: the file of the other frames.
    :param masks: the ground truth of frames, by number; only of a data set.
    :param names: names of image files without suffix, by number, if they are not official names.
    """

    name: str
    numbers: Sequence[int] | None = None
    every: int = VIDEO_EVERY
    images: Mapping[int, Path] = field(default_factory=dict)
    video: Path | None = None
    masks: Mapping[int, Path] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of frames, including missing frames of a video."""
        if self.numbers is not None:
            return len(self.numbers)
        film = self.film
        return 0 if film is None else -(-len(film) // self.every)

    @property
    def film(self) -> Video | None:
        """The video, if one is needed; raises FrameError if the file is not a video."""
        if self.video is None:
            return None
        if self.numbers is None or any(number not in self.images for number in self.numbers):
            return open_video(self.video)
        return None

    def mask_name(self, number: int) -> str:
        """
        Return the name of a mask: that of its image, or the official name of nine digits.

        :param number: number of the frame.
        :return: the name of the file, without suffix.
        """
        return self.names.get(number, f'{number:09d}')

    def wants(self, number: int) -> bool:
        """
        Return whether a frame number is selected, if the video is long enough.

        :param number: number of the frame.
        :return: whether it is selected.
        """
        return number % self.every == 0 if self.numbers is None else number in self.numbers

    def read(
        self, is_done: Callable[[int], bool], data_errors: dict[int, str] | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """
        Decode the frames.

        :param is_done: called with a frame's number; if true, the frame is skipped.
        :param data_errors: collects missing and damaged frames of a video with the reason; if
            None, they raise FrameError.
        :return: number and (H, W, 3) uint8 RGB.
        :raises FrameError: if a frame cannot be decoded.
        """
        if self.numbers is None:
            yield from self._decode(
                (n for n in count(0, self.every) if not is_done(n)), data_errors
            )
            return
        rest = [number for number in self.numbers if not is_done(number)]
        for number in rest:
            if number in self.images:
                yield number, read_image_file(self.images[number])
        packed = [number for number in rest if number not in self.images]
        film = self.film
        if packed and film is not None and packed[-1] >= len(film):
            raise FrameError(f'{self.video}: ends before frame {packed[-1]}, which has a mask')
        yield from self._decode(iter(packed), data_errors)

    def check(self) -> None:
        """
        Check that the video, if one is needed, can be read, and that one of its frames decodes.

        :raises FrameError: if it cannot.
        """
        film = self.film
        data_errors: dict[int, str] = {}
        if film is not None and next(film.read(count(), data_errors), None) is None:
            first = next(iter(data_errors.values()))
            raise FrameError(f'{first}; not a video or image, or damaged: copy it again')

    def _decode(
        self, numbers: Iterator[int], data_errors: dict[int, str] | None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        return open_video(self.video).read(numbers, data_errors) if self.video else iter(())


class Crop(NamedTuple):
    """A rectangle in each image, in pixels."""

    x: int
    y: int
    width: int
    height: int


class LabelledFrame(NamedTuple):
    """
    A frame of a video.

    :param number: number of the frame in the video.
    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class index, or None without a truth.
    """

    number: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None


def find_sources(path: Path, every: int | None = None) -> list[Source]:
    """
    Find the sources in a path.

    :param path: a video; a folder of images; or the folder of a video or of several, in the layout
        of SAR-RARP50, unpacked or not, or with a folder for each of two cameras.
    :param every: use frames whose number is a multiple of it; by default all images of a folder,
        the frames of a data set that have a mask, and every 60th frame of a video.
    :return: one source for each video, or for each camera of one, sorted by name.
    :raises FrameError: if there are no frames.
    """
    if not path.exists():
        raise FrameError(f'{str(path)!r} does not exist: check the path')
    if path.is_file():
        name = path.parent.name if path.name.lower() == VIDEO_FILE else path.stem
        return [Source(name=official_name(name), every=every or VIDEO_EVERY, video=path)]
    whole = path.resolve()
    views = {name: view for name, view in find_views(path).items() if has_images(view)}
    if not views and has_images(path):
        views = {official_name(whole.name): whole}
    if views:
        return [_of_data_set(name, view, every) for name, view in views.items()]
    files = images_in(path)
    if not files:
        raise FrameError(
            f'{str(path)!r} holds no frames: give a video, a folder of PNG or JPEG files, or a '
            f'folder of video_* with {VIDEO_FILE}, {" or ".join(IMAGE_FOLDERS)}'
        )
    name = whole.parent.name if whole.name.lower() in IMAGE_FOLDERS else whole.name
    numbered = _numbered(files)
    return [replace(_of_images(name, numbered, every or 1), names=_own_names(numbered))]


def report_losses(source: Source, data_errors: Mapping[int, str]) -> str:
    """
    Describe missing and damaged frames of a video.

    :param source: source of its frames.
    :param data_errors: as collected by Source.read.
    :return: a line for each of the first frames, and the number of the others; empty if none.
    """
    film = source.film
    gaps = () if film is None else film.data_errors
    inside = [x for n, x in data_errors.items() if film is None or not film.reason_missing(n)]
    lines = [*gaps, *inside]
    if len(lines) > _NAMED:
        lines[_NAMED:] = [f'and {len(lines) - _NAMED} more']
    return '\n'.join(lines)


def labelled_frames(
    source: Source, crop: Crop | None = None, data_errors: dict[int, str] | None = None
) -> Iterator[LabelledFrame]:
    """
    Read a video's frames, with their masks if there are any, one at a time.

    :param source: the video.
    :param crop: the part of image and mask to return.
    :param data_errors: collects missing and damaged frames without a mask, with the reason; if
        None, they raise FrameError. Frames with a mask always raise.
    :return: the frames, all of one size.
    :raises FrameError: if a frame cannot be decoded, has another size than the first one or its
        mask, or is missing though it has a mask; if the crop exceeds the image; or if there is
        no frame at all.
    :raises MaskError: if the file of a mask is not a mask.
    """
    masks = {number: path for number, path in source.masks.items() if source.wants(number)}
    first: tuple[int, ...] | None = None
    found: dict[int, str] = {} if data_errors is None else data_errors
    for number, image in source.read(lambda _: False, None if data_errors is None else found):
        _refuse_lost(masks, found)
        size = image.shape[:2]
        if size != (first := first or size):
            raise FrameError(
                f'{source.name}: frame {number} is {_words(size)}, those before it '
                f'{_words(first)}: give the images of one camera, in one size'
            )
        mask = _mask(masks.pop(number), image) if number in masks else None
        yield LabelledFrame(number, _cut(image, crop), None if mask is None else _cut(mask, crop))
    _refuse_lost(masks, found)
    if first is None and found:
        raise FrameError(next(iter(found.values())))
    if first is None:
        raise FrameError(f'{source.name}: has none of the requested frames')
    if masks:
        raise FrameError(f'{source.video}: ends before frame {min(masks)}, which has a mask')


def _of_data_set(name: str, video: Path, every: int | None) -> Source:
    """Select the frames that have a mask; without masks, those at the usual rate of masks."""
    images, file = find_images(video), find_video_file(video)
    masks = masks_by_number(video)
    lacking = [number for number in masks if number not in images]
    if lacking and file is None:
        raise FrameError(
            f'{video}: frame {lacking[0]:09d} has a mask, but is neither in '
            f'{" or ".join(IMAGE_FOLDERS)}, nor is there {VIDEO_FILE}'
        )
    if masks and not every:
        return Source(name=name, numbers=sorted(masks), images=images, video=file, masks=masks)
    every = every or VIDEO_EVERY
    if lacking or not images:
        return Source(name=name, every=every, video=file, masks=masks)
    return _of_images(name, images, every, masks)


def _of_images(
    name: str, images: Mapping[int, Path], every: int, masks: Mapping[int, Path] | None = None
) -> Source:
    numbers = [number for number in images if number % every == 0]
    return Source(name=official_name(name), numbers=numbers, images=images, masks=masks or {})


def _numbered(files: Sequence[Path]) -> dict[int, Path]:
    """Use numbers from the file names, or the order of the files if the names have none."""
    matches = [re.search(r'(\d+)$', file.stem) for file in files]
    numbers = [int(match[1]) for match in matches if match]
    if len(set(numbers)) < len(files):
        numbers = list(range(len(files)))
    return dict(sorted(zip(numbers, files, strict=True)))


def _own_names(images: Mapping[int, Path]) -> dict[int, str]:
    """Return the names of image files; empty if all have official names."""
    matches = {number: IMAGE_NAME.fullmatch(path.stem) for number, path in images.items()}
    if all(match and int(match[1]) == number for number, match in matches.items()):
        return {}
    return {number: path.stem for number, path in images.items()}


def _refuse_lost(masks: Mapping[int, Path], data_errors: Mapping[int, str]) -> None:
    """Reject a video that lacks a frame which has a mask."""
    for number in masks.keys() & data_errors.keys():
        raise FrameError(f'{data_errors[number]}; it has a mask: copy the video again')


def _mask(path: Path, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mask = read_truth(path)
    if mask.shape != image.shape[:2]:
        sizes = f'{_words(mask.shape)}, its frame {_words(image.shape)}'
        raise FrameError(f'{path}: is {sizes}: both must have the size of the video')
    return mask


def _cut(image: NDArray[np.uint8], crop: Crop | None) -> NDArray[np.uint8]:
    """Crop (H, W, ...)."""
    if crop is None:
        return image
    bottom, right = crop.y + crop.height, crop.x + crop.width
    height, width = image.shape[:2]
    if bottom > height or right > width:
        raise FrameError(
            f'the crop {" ".join(map(str, crop))} reaches to {right},{bottom}, beyond an image '
            f'of {width}x{height}: it is X Y WIDTH HEIGHT, in pixels'
        )
    return image[crop.y : bottom, crop.x : right]


def _words(shape: Sequence[int]) -> str:
    return f'{shape[1]}x{shape[0]}'
