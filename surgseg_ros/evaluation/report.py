# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: scores, confusion, and the images of the worst frames."""

import base64
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, CLASS_NAMES, PALETTE
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.evaluation.frames import read_frames, read_image_file
from surgseg_ros.evaluation.layout import FrameError, find_images, find_video_file, find_views
from surgseg_ros.evaluation.metrics import MEANINGS, SCORED, FrameCounts
from surgseg_ros.evaluation.pairs import Pair, report
from surgseg_ros.reports import FILE_NAME
from surgseg_ros.reports.pages import class_bars, write_page

_WIDTH_PX: Final = 640
_QUALITY: Final = 85
_DIMMED: Final = 0.35
_WRONG: Final = (255, 70, 70)


def _palette() -> NDArray[np.uint8]:
    """Class colours with a grey background, from which all of them differ clearly."""
    palette = PALETTE.copy()
    palette[BACKGROUND] = 108
    return palette


_PALETTE: Final = _palette()


class Panel(NamedTuple):
    """An image with its title; the URI is None if there is no image."""

    title: str
    uri: str | None


class ShownFrame(NamedTuple):
    """
    One frame of a report.

    :param title: video and frame.
    :param numbers: its scores.
    :param panels: its images.
    :param classes: those in the truth or in the prediction, each with its scores.
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
    :return: truth and prediction, drawn over the input if there is one; the input comes first, or
        without one, the wrong pixels come last.
    """
    truth, predicted = pair.read()
    return draw_frame(None if frames is None else find_input(frames, pair), truth, predicted)


def draw_frame(
    image: NDArray[np.uint8] | None,
    truth: NDArray[np.uint8] | None,
    predicted: NDArray[np.uint8] | None,
) -> list[Panel]:
    """
    Draw the available images of a frame.

    :param image: (H, W, 3) uint8 RGB; left out if its size differs from that of a mask.
    :param truth: (H, W) uint8 class index.
    :param predicted: (H, W) uint8 class index or NO_DECISION.
    :return: as for `draw_panels`; without a truth, its panel and the wrong pixels are missing.
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
    Find the image of a truth.

    :param frames: folder of `video_*/` with `rgb/`, `frames/` or `video_left.avi`.
    :param pair: the masks.
    :return: (H, W, 3) uint8 RGB; None if there is none, or it cannot be read.
    """
    if not pair.truth.stem.isdecimal():
        return None
    index = int(pair.truth.stem)
    try:
        video = find_views(frames).get(pair.video)
        if video is None:
            return None
        if path := find_images(video).get(index):
            return read_image_file(path)
        if file := find_video_file(video):
            return next((image for _, image in read_frames(file, [index])), None)
    except FrameError:
        return None
    return None


def _coloured(mask: NDArray[np.uint8], image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    return _PALETTE[mask] if image is None else draw_overlay(image, mask)


def _differing(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show errors in red, over the truth's dimmed colours."""
    image = (_PALETTE[truth] * _DIMMED).astype(np.uint8)
    image[truth != predicted] = _WRONG
    return image


def _uri(image: NDArray[np.uint8]) -> str:
    """Encode an image for the page, reduced to the size at which it is shown."""
    height, width = image.shape[:2]
    if width > _WIDTH_PX:
        size = _WIDTH_PX, max(1, round(height * _WIDTH_PX / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return f'data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}'


_SHOWN: Final = 8
"""Number of worst frames that are drawn."""

_NAMES: Final = tuple(CLASS_NAMES[label] for label in SCORED)


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    pairs: Sequence[Pair],
    counts: Mapping[str, Sequence[FrameCounts]],
    frames: Path | None = None,
) -> Path:
    """
    Write the report.

    :param folder: folder of the report; created if it does not exist.
    :param summary: the scores, from `summarize`.
    :param pairs: the masks, by video.
    :param counts: the counts of `pairs`, in the same order.
    :param frames: folder of videos with images, to show the inputs of the worst frames.
    :return: the file.
    """
    floor = summary['floor']
    bars, classes = _classes(summary, counts)
    return write_page(
        folder / FILE_NAME,
        'evaluation.html.j2',
        title='Segmentation against the truth',
        meanings=MEANINGS,
        frames=len(pairs),
        missing=sum(pair.predicted is None for pair in pairs),
        flicker=report(summary['flicker']).capitalize() if 'flicker' in summary else '',
        scores=[(key, summary[key], floor[key]) for key in floor],
        bars=bars,
        classes=classes,
        videos=_videos(summary, counts),
        confusion=_confusion(counts),
        predicted_names=(*CLASS_NAMES, 'no decision'),
        worst=_worst(pairs, counts, frames),
    )


def _classes(
    summary: Mapping[str, Any], counts: Mapping[str, Sequence[FrameCounts]]
) -> tuple[Markup, list[Sequence[object]]]:
    """Draw bars for each class, and build the rows of the table."""
    videos = summary['videos'].values()
    iou, nsd = (
        np.mean([video[key] for video in videos], 0).tolist()
        for key in ('class_mIoU', 'class_mNSD')
    )
    absent = [np.mean([f.truth_px == 0 for f in of_video], 0) for of_video in counts.values()]
    seen = np.sum([f.truth_px > 0 for f in chain.from_iterable(counts.values())], 0).tolist()
    floor, present = np.mean(absent, 0).tolist(), summary['present_class_IoU']
    bars = {'IoU': (iou, floor), 'NSD': (nsd, floor), 'IoU where present': (present, None)}
    rows = zip(_NAMES, seen, iou, nsd, floor, present, summary['pooled_class_IoU'], strict=True)
    return class_bars(SCORED, bars), list(rows)


def _videos(
    summary: Mapping[str, Any], counts: Mapping[str, Sequence[FrameCounts]]
) -> list[Sequence[object]]:
    floors = {k: float(np.mean([f.truth_px == 0 for f in of])) for k, of in counts.items()}
    missing = {k: sum(f.missing for f in of) for k, of in counts.items()}
    return [
        (name, len(counts[name]), missing[name], values['mIoU'], values['mNSD'], floors[name])
        for name, values in summary['videos'].items()
    ]


def _confusion(
    counts: Mapping[str, Sequence[FrameCounts]],
) -> list[tuple[str, list[float | None]]]:
    """Compute the row-normalized confusion matrix; empty if no frame has a prediction."""
    frames = [frame for frame in chain.from_iterable(counts.values()) if not frame.missing]
    if not frames:
        return []
    total = np.sum([frame.confusion for frame in frames], 0)
    return [
        (name, (row / row.sum()).tolist() if row.any() else [None] * len(row))
        for name, row in zip(CLASS_NAMES, total, strict=True)
    ]


def _worst(
    pairs: Sequence[Pair], counts: Mapping[str, Sequence[FrameCounts]], frames: Path | None
) -> list[ShownFrame]:
    """Draw the worst frames, worst first."""
    shown = []
    counted = list(chain.from_iterable(counts.values()))
    for index in worst_indices(counts):
        pair, frame = pairs[index], counted[index]
        title = f'{pair.video} · {pair.truth.stem}'
        numbers = f'IoU {frame.iou.mean():.3f} · NSD {frame.nsd.mean():.3f}'
        shown.append(ShownFrame(title, numbers, draw_panels(pair, frames), _present(frame)))
    return shown


def worst_indices(counts: Mapping[str, Sequence[FrameCounts]], number: int = _SHOWN) -> list[int]:
    """
    Select frames: the worst frame of each video, then the second worst of each, and so on.

    :param counts: the counts of each video's frames.
    :param number: maximum number of frames.
    :return: their indices among all frames, video by video; the lowest IoU first.
    """
    ranked, start = [], 0
    for frames in counts.values():
        values = [(float(f.iou.mean()), float(f.nsd.mean())) for f in frames]
        order = sorted(range(len(frames)), key=values.__getitem__)
        ranked += [(rank, values[index], start + index) for rank, index in enumerate(order)]
        start += len(frames)
    return [index for _, _, index in sorted(sorted(ranked)[:number], key=lambda r: r[1:])]


def _present(frame: FrameCounts) -> list[tuple[int, str]]:
    """List the classes in a frame with their scores, the lowest IoU first."""
    present = np.flatnonzero(frame.truth_px + frame.predicted_px)
    return [
        (SCORED[index], f'{_NAMES[index]} {frame.iou[index]:.2f} / {frame.nsd[index]:.2f}')
        for index in sorted(present, key=lambda index: frame.iou[index])
    ]
