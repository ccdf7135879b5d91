# SPDX-License-Identifier: Apache-2.0
"""The images of a frame in a report: input, truth, prediction, as data URIs."""

import base64
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, PALETTE
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.evaluation.errors import FrameError
from surgseg_ros.evaluation.frames import read_frames, read_picture
from surgseg_ros.evaluation.layout import (
    find_pictures,
    find_video_file,
    find_videos,
    official_name,
)
from surgseg_ros.evaluation.pairs import Pair

_WIDTH_PX: Final = 640
_QUALITY: Final = 85
_DIMMED: Final = 0.35
_WRONG: Final = (255, 70, 70)


def _palette() -> NDArray[np.uint8]:
    """Colours that all stand out from the background, which they don't from black."""
    palette = PALETTE.copy()
    palette[BACKGROUND] = 108
    return palette


_PALETTE: Final = _palette()


class Panel(NamedTuple):
    """An image with its title; the URI is None where there is nothing to show."""

    title: str
    uri: str | None


class ShownFrame(NamedTuple):
    """
    A frame in a report.

    :param title: which it is.
    :param numbers: its scores.
    :param panels: its images.
    :param classes: those in the truth or in the prediction, each with what is known of it.
    """

    title: str
    numbers: str
    panels: list[Panel]
    classes: list[tuple[int, str]]


def draw_panels(pair: Pair, frames: Path | None = None) -> list[Panel]:
    """
    Draw a frame.

    :param pair: its masks.
    :param frames: folder of videos with images.
    :return: truth and prediction, drawn over the input where there is one; before them the
        input, or after them where they differ.
    """
    truth, predicted = pair.read()
    return draw_frame(None if frames is None else find_input(frames, pair), truth, predicted)


def draw_frame(
    image: NDArray[np.uint8] | None,
    truth: NDArray[np.uint8] | None,
    predicted: NDArray[np.uint8] | None,
) -> list[Panel]:
    """
    Draw what there is of a frame.

    :param image: (H, W, 3) uint8 RGB; of another size than a mask it is left out.
    :param truth: (H, W) uint8 class index.
    :param predicted: (H, W) uint8 class index or NO_DECISION.
    :return: as of `draw_panels`; without a truth, none of it.
    """
    masks = (
        {'prediction': predicted} if truth is None else {'truth': truth, 'prediction': predicted}
    )
    sizes = {mask.shape for mask in masks.values() if mask is not None}
    if image is not None and sizes - {image.shape[:2]}:
        image = None
    panels = [
        Panel(title, None if mask is None else _uri(_coloured(mask, image)))
        for title, mask in masks.items()
    ]
    if image is not None:
        return [Panel('input', _uri(image)), *panels]
    if truth is not None and predicted is not None and truth.shape == predicted.shape:
        panels.append(Panel('wrong pixels', _uri(_differing(truth, predicted))))
    return panels


def find_input(frames: Path, pair: Pair) -> NDArray[np.uint8] | None:
    """
    Find the image that a truth belongs to.

    :param frames: folder of `video_*/` with `rgb/`, `frames/` or `video_left.avi`.
    :param pair: the masks.
    :return: (H, W, 3) uint8 RGB; None where there is none, or it cannot be read.
    """
    if not pair.truth.stem.isdecimal():
        return None
    index = int(pair.truth.stem)
    try:
        named = {official_name(video.name): video for video in find_videos(frames)}
        video = named.get(official_name(pair.video))
        if video is None:
            return None
        if picture := find_pictures(video).get(index):
            return read_picture(picture)
        if file := find_video_file(video):
            return next((image for _, image in read_frames(file, [index])), None)
    except FrameError:
        return None
    return None


def _coloured(mask: NDArray[np.uint8], image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    return _PALETTE[mask] if image is None else draw_overlay(image, mask)


def _differing(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show what is wrong in red, over the truth's dimmed colours."""
    picture = (_PALETTE[truth] * _DIMMED).astype(np.uint8)
    picture[truth != predicted] = _WRONG
    return picture


def _uri(picture: NDArray[np.uint8]) -> str:
    """Encode an image as the page holds it, no larger than it is shown."""
    height, width = picture.shape[:2]
    if width > _WIDTH_PX:
        size = _WIDTH_PX, max(1, round(height * _WIDTH_PX / width))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return f'data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}'
