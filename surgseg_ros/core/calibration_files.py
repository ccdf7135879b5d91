# SPDX-License-Identifier: Apache-2.0
"""
Calibrations of cameras as files.

Their format is that of camera_calibration, which camera_info_manager reads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from surgseg_ros.core.errors import content_error
from surgseg_ros.core.files import read_limited
from surgseg_ros.core.stereo_calibration import (
    CameraInfo,
    Matrix,
    StereoCalibration,
    StereoError,
)

CALIBRATION_FILE: Final = 'camera_info.yaml'
"""Name of the calibration file in the folder of a camera, beside its images and masks."""

_MAX_BYTES: Final = 100_000


def calibration_yaml(info: CameraInfo, name: str) -> str:
    """
    Serialize a calibration.

    :param info: the calibration.
    :param name: name of the camera.
    :return: the content of a file.
    """

    def matrix(values: Matrix) -> str:
        rows, columns = np.atleast_2d(values).shape
        return f'{{rows: {rows}, cols: {columns}, data: {values.ravel().tolist()}}}'

    height, width = info.size
    return (
        f'image_width: {width}\nimage_height: {height}\ncamera_name: {name}\n'
        f'camera_matrix: {matrix(info.k)}\n'
        f'distortion_model: {info.model}\n'
        f'distortion_coefficients: {matrix(info.d)}\n'
        f'rectification_matrix: {matrix(info.r)}\n'
        f'projection_matrix: {matrix(info.p)}\n'
    )


def read_calibration(path: Path) -> CameraInfo:
    """
    Read a calibration.

    :param path: path of the file.
    :return: the calibration.
    :raises StereoError: if the file cannot be read, or is not a calibration.
    """
    try:
        return _info(yaml.load(read_limited(path, _MAX_BYTES), _Loader))
    except OSError as error:
        raise StereoError(f'{path}: cannot be read ({error.strerror})') from error
    except (ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise StereoError(
            f'{path}: is not a calibration as camera_calibration writes it '
            f'({content_error(error)}): calibrate the cameras, or remove the file'
        ) from error


def read_stereo_calibration(first: Path, second: Path) -> StereoCalibration:
    """
    Read the calibrations of two cameras whose images are rectified.

    :param first: file of the first camera.
    :param second: file of the second camera.
    :return: both calibrations.
    :raises StereoError: if a file cannot be read, or they are not calibrated as a pair.
    """
    infos = read_calibration(first), read_calibration(second)
    try:
        return StereoCalibration(infos)
    except StereoError as error:
        raise StereoError(f'{first} and {second}: {error}') from error


class _Loader(yaml.SafeLoader):
    """Rejects aliases, with which a short file can use up all memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError('it has aliases')
        return super().compose_node(parent, index)


def _info(content: Mapping[str, Any]) -> CameraInfo:
    size = content['image_height'], content['image_width']
    if any(type(side) is not int for side in size):
        raise ValueError(f'image size {size}, expected whole numbers')
    shapes = {
        'camera_matrix': (3, 3),
        'rectification_matrix': (3, 3),
        'projection_matrix': (3, 4),
    }
    k, r, p = (_values(content, key).reshape(shape) for key, shape in shapes.items())
    d = _values(content, 'distortion_coefficients')
    return CameraInfo(size, str(content['distortion_model']), d, k, r, p)


def _values(content: Mapping[str, Any], key: str) -> Matrix:
    return np.array(content[key]['data'], np.float64).ravel()
