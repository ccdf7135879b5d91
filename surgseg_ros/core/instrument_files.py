# SPDX-License-Identifier: Apache-2.0
"""
Instruments of a frame as files: an image of their pixels, and a JSON file of their keypoints.

`synthesize` writes the ground truth, `predict` the predictions, and `evaluate` reads both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgseg_ros.core.errors import content_error
from surgseg_ros.core.files import read_limited
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import BACKGROUND, CLASS_COUNT, KEYPOINT_LABELS, LABELS, NO_DECISION

INSTANCES_FOLDER: Final = 'instances'
"""
Folder beside `segmentation/`, with an image (mono8) of each frame. The value of a pixel is the
number of its instrument, 0 for none, or NO_DECISION.
"""

INSTRUMENTS_FOLDER: Final = 'instruments'
"""Folder beside `segmentation/`, with a JSON file of each frame that lists its instruments."""

MAX_FILE_BYTES: Final = 4_000_000
"""Largest size of a JSON file; 254 threads take 1 MB."""

_DIGITS: Final = 3
"""Decimal places of values in pixels or degrees."""


class InstrumentFileError(ValueError):
    """A file that is not a list of instruments; the message gives the file and the error."""


class ListedInstrument(NamedTuple):
    """
    An instrument of a frame.

    :param number: value of its pixels in the image in INSTANCES_FOLDER, 1 to 254.
    :param label: a key of LABELS.
    :param geometry: its keypoints.
    :param track_id: the same in all frames of a video; 0 if the instrument is not tracked.
    :param score: confidence, 0..1; 1 in the ground truth.
    :param tip_m: x, y and z of its tip in metres, in the rectified frame of the first camera; None
        if it is unknown.
    :param axis: unit vector along its shaft to the tip, in the same frame; None if it is unknown.
    :param tip_sigma_m: standard deviations of x, y and z of the tip; None in the ground truth.
    """

    number: int
    label: int
    geometry: Geometry
    track_id: int
    score: float = 1.0
    tip_m: tuple[float, float, float] | None = None
    axis: tuple[float, float, float] | None = None
    tip_sigma_m: tuple[float, float, float] | None = None


def instruments_to_json(
    instruments: Sequence[ListedInstrument], *, is_decided: bool = True
) -> bytes:
    """
    Serialize the instruments of a frame.

    :param instruments: the instruments.
    :param is_decided: False if there is no decision, so that an empty list does not mean that the
        frame has no instruments.
    :return: the content of a JSON file.
    """
    entries = [_entry(instrument) for instrument in instruments]
    return (json.dumps({'is_decided': is_decided, 'instruments': entries}) + '\n').encode()


def _entry(instrument: ListedInstrument) -> dict[str, Any]:
    geometry = instrument.geometry
    measures = {
        key: _rounded(getattr(geometry, key))
        for key in ('opening_deg', 'shaft_width_px', 'needle_radius_px')
    }
    return {
        'number': instrument.number,
        'id': instrument.track_id,
        'label': instrument.label,
        'name': LABELS[instrument.label],
        'score': round(instrument.score, 4),
        'points': [_point_entry(point) for point in geometry.keypoints],
        **measures,
        'tip_m': instrument.tip_m and list(instrument.tip_m),
        'axis': instrument.axis and list(instrument.axis),
        'tip_sigma_m': instrument.tip_sigma_m and list(instrument.tip_sigma_m),
    }


def _point_entry(point: Keypoint) -> dict[str, Any]:
    return {
        'kind': int(point.kind),
        'name': KEYPOINT_LABELS[point.kind],
        'x_px': _rounded(point.x_px),
        'y_px': _rounded(point.y_px),
        'angle_rad': round(point.angle_rad, 5),
        'sigma_px': _rounded(point.sigma_px),
        'score': round(point.score, 4),
        'hidden': point.is_hidden,
        'beyond_image': point.is_beyond,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def read_instruments(path: Path) -> tuple[ListedInstrument, ...]:
    """
    Read the instruments of a frame.

    :param path: a file that `instruments_to_json` wrote.
    :return: the instruments, in the order of the file.
    :raises InstrumentFileError: if the file cannot be read, or is not such a file.
    """
    try:
        found = tuple(
            _instrument(entry)
            for entry in json.loads(read_limited(path, MAX_FILE_BYTES))['instruments']
        )
        for key, values in (
            ('number', [instrument.number for instrument in found]),
            ('id', [instrument.track_id for instrument in found if instrument.track_id]),
        ):
            if repeated := {value for value in values if values.count(value) > 1}:
                raise ValueError(f'{key} {min(repeated)} twice')
    except OSError as error:
        raise InstrumentFileError(f'{path}: cannot be read ({error.strerror})') from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InstrumentFileError(
            f'{path}: is not a list of instruments as synthesize and predict write it '
            f'({content_error(error)}): write it again'
        ) from error
    return found


def _instrument(entry: Mapping[str, Any]) -> ListedInstrument:
    label = _whole(entry, 'label')
    if label not in LABELS or label in (BACKGROUND, NO_DECISION):
        raise ValueError(f'label {label}, expected 1 to {CLASS_COUNT}')
    number = _whole(entry, 'number')
    if not 0 < number < NO_DECISION:
        raise ValueError(f'number {number}, expected 1 to {NO_DECISION - 1}')
    opening, width, radius = (
        None if entry.get(key) is None else _finite(entry, key)
        for key in ('opening_deg', 'shaft_width_px', 'needle_radius_px')
    )
    points = tuple(_point(point) for point in entry['points'])
    return ListedInstrument(
        number,
        label,
        Geometry(points, opening, width, radius),
        _whole(entry, 'id'),
        _finite(entry, 'score'),
        _vector(entry, 'tip_m'),
        _vector(entry, 'axis'),
        _vector(entry, 'tip_sigma_m'),
    )


def _point(entry: Mapping[str, Any]) -> Keypoint:
    kind = KeypointKind(_whole(entry, 'kind'))
    x_px, y_px, angle_rad, sigma_px = (
        _finite(entry, key) for key in ('x_px', 'y_px', 'angle_rad', 'sigma_px')
    )
    flags = entry['hidden'] is True, entry['beyond_image'] is True
    return Keypoint(kind, x_px, y_px, angle_rad, sigma_px, *flags)


def _vector(entry: Mapping[str, Any], key: str) -> tuple[float, float, float] | None:
    if entry.get(key) is None:
        return None
    x, y, z = (_finite({key: value}, key) for value in entry[key])
    return x, y, z


def _whole(entry: Mapping[str, Any], key: str) -> int:
    value = entry[key]
    if type(value) is not int:
        raise ValueError(f'{key} {value!r}, expected a whole number')
    return value


def _finite(entry: Mapping[str, Any], key: str) -> float:
    value = entry[key]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f'{key} {value!r}, expected a finite number')
    return float(value)
