# SPDX-License-Identifier: Apache-2.0
"""
The calibration of two cameras, from `camera_info` or from files, and checks of it.

The format of the files is that of camera_calibration, which camera_info_manager reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from surgseg_ros.core.errors import content_error
from surgseg_ros.core.files import read_limited
from surgseg_ros.core.segmentation import Points

Matrix = NDArray[np.float64]

_COUNTS: Final = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}
"""Numbers of coefficients of each distortion model of ROS."""

_FOCAL: Final = (0.2, 20.0)
"""Range of focal lengths of an endoscope, in image widths."""

_BASELINE_M: Final = (0.0005, 0.1)
"""Range of distances between the cameras of a stereo endoscope."""

_SAME_PX: Final = 0.5
_SAME_FOCAL: Final = 1e-3


@dataclass(frozen=True)
class CameraInfo:
    """
    The calibration in a sensor_msgs/CameraInfo, with the same fields.

    :param size: (H, W) of the images in pixels; 0 if it is unknown.
    :param model: name of the distortion model.
    :param d: (n,) its coefficients.
    :param k: (3, 3) intrinsic matrix of the raw images.
    :param r: (3, 3) rotation into the rectified frame.
    :param p: (3, 4) projection from the rectified frame of the first camera of the pair into the
        rectified images, in pixels and metres.
    :param is_part: whether the images are binned, or a region of interest of the full image.
    """

    size: tuple[int, int]
    model: str
    d: Matrix
    k: Matrix
    r: Matrix
    p: Matrix
    is_part: bool = False


class StereoError(ValueError):
    """Calibration or images cannot be used; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class StereoCalibration:
    """
    Two calibrated cameras; 3-D positions are in the rectified frame of the first, in metres.

    :param cameras: calibrations of the first and of the second camera.
    :param rectified: whether the images are rectified already.
    :raises StereoError: if they are not calibrated as a pair.
    """

    cameras: tuple[CameraInfo, CameraInfo]
    rectified: bool = True

    def __post_init__(self) -> None:
        """Check each calibration, then both together."""
        for name, info in zip(('first', 'second'), self.cameras):
            problem = _problem(info) or ('' if self.rectified else _problem_of_raw(info))
            if problem:
                raise StereoError(f'camera_info of the {name} camera: {problem}')
        if problem := _problem_of_pair(*self.cameras):
            raise StereoError(f'camera_info of both cameras: {problem}')

    @property
    def focal_px(self) -> tuple[float, float]:
        """Focal length of the rectified images along x and y."""
        return float(self.cameras[0].p[0, 0]), float(self.cameras[0].p[1, 1])

    @property
    def centre_px(self) -> tuple[float, float]:
        """Principal point of the first rectified image, x and y."""
        return float(self.cameras[0].p[0, 2]), float(self.cameras[0].p[1, 2])

    @property
    def baseline_m(self) -> float:
        """Position of the second camera to the right of the first; negative if to the left."""
        first, second = self.cameras
        return float(first.p[0, 3] - second.p[0, 3]) / self.focal_px[0]

    def check_size(self, camera: int, size: tuple[int, int]) -> None:
        """
        Check that a calibration is for images of a size.

        :param camera: 0 or 1.
        :param size: (H, W) of the camera's image in pixels.
        :raises StereoError: if the calibration is for another size.
        """
        known = self.cameras[camera].size
        if known != size:
            raise StereoError(
                f'camera_info of the {("first", "second")[camera]} camera is of '
                f'{known[1]}x{known[0]}, but its images have {size[1]}x{size[0]}: publish the '
                'camera_info of these images'
            )

    def rectify(self, camera: int, points: Points) -> Points:
        """
        Compute the positions of image points in the rectified image.

        :param camera: 0 or 1.
        :param points: (n, 2) x and y in pixels.
        :return: (n, 2) the points in pixels of the rectified image; those of the second camera are
            shifted so that both images have the same principal point.
        """
        info = self.cameras[camera]
        found = points
        if not self.rectified and len(points):
            given = np.ascontiguousarray(points, np.float64)[:, None]
            is_fisheye = info.model == 'equidistant'
            undistort = cv2.fisheye.undistortPoints if is_fisheye else cv2.undistortPoints
            placed = undistort(given, info.k, info.d, R=info.r, P=info.p[:, :3])
            found = np.asarray(placed, np.float64).reshape(-1, 2)
        shift = np.array([self.centre_px[0] - float(info.p[0, 2]), 0.0])
        return np.asarray(found + shift)

    def disparity_px(self, depth_m: float) -> float:
        """
        Return the disparity of a point: how far it is shifted to the left in the second image.

        :param depth_m: distance of the point along z, in metres.
        :return: focal length times baseline over depth; negative if the second camera is to the
            left of the first.
        """
        return self.focal_px[0] * self.baseline_m / depth_m

    def position_m(self, point: Points, disparity_px: float) -> Points:
        """
        Compute the 3-D position of a point.

        :param point: (2,) x and y in the first rectified image, in pixels.
        :param disparity_px: as the method `disparity_px` returns it.
        :return: (3,) in metres, relative to the first camera; x to the right, y down, z forward.
        """
        away = (point - self.centre_px) / self.focal_px
        depth = self.focal_px[0] * self.baseline_m / disparity_px
        return np.array([away[0], away[1], 1.0]) * depth


def _problem(info: CameraInfo) -> str:
    """Explain why a camera_info is not that of a calibrated camera; empty if it is."""
    if min(info.size) < 1:
        return 'it gives no size of the image: the camera is not calibrated'
    numbers = np.concatenate([info.p.ravel(), info.k.ravel(), info.r.ravel(), info.d.ravel()])
    if not np.isfinite(numbers).all():
        return 'it has values that are not finite: calibrate the cameras'
    if info.is_part:
        return 'it has a region of interest or binning, which are not supported'
    if not info.p.any():
        return 'P is all 0: the camera is not calibrated (camera_calibration with two cameras)'
    low, high = (share * info.size[1] for share in _FOCAL)
    if not (low <= info.p[0, 0] <= high and low <= info.p[1, 1] <= high):
        return (
            f'P has focal lengths of {info.p[0, 0]:g} and {info.p[1, 1]:g} px for images of '
            f'{info.size[1]} px, which is a placeholder: calibrate the cameras'
        )
    height, width = info.size
    if not (0 <= info.p[0, 2] <= width and 0 <= info.p[1, 2] <= height):
        return f'P has its centre at ({info.p[0, 2]:g}, {info.p[1, 2]:g}), outside of the image'
    return ''


def _problem_of_raw(info: CameraInfo) -> str:
    """Explain why points of raw images cannot be rectified; empty if they can."""
    counts = _COUNTS.get(info.model)
    if counts is None:
        return f'distortion_model is {info.model!r}, expected one of {list(_COUNTS)}'
    if len(info.d) not in counts:
        return f'{info.model} has {len(info.d)} coefficients in d, expected {counts}'
    low, high = (share * info.size[1] for share in _FOCAL)
    if not (low <= info.k[0, 0] <= high and low <= info.k[1, 1] <= high):
        return f'K has focal lengths of {info.k[0, 0]:g} and {info.k[1, 1]:g} px: a placeholder'
    if not np.allclose(info.r @ info.r.T, np.eye(3), atol=1e-3) or np.linalg.det(info.r) < 0:
        return 'R is not a rotation: calibrate the cameras as a pair'
    return ''


def _problem_of_pair(first: CameraInfo, second: CameraInfo) -> str:
    """Explain why two cameras are not a rectified pair; empty if they are."""
    focal = first.p[0, 0]
    if not np.allclose(first.p[[0, 1], [0, 1]], second.p[[0, 1], [0, 1]], rtol=_SAME_FOCAL) or (
        abs(first.p[1, 2] - second.p[1, 2]) > _SAME_PX
    ):
        return (
            'the rows of their P do not agree: both need the same focal length and the same '
            'centre in y, as stereo calibration makes them'
        )
    if first.p[1, 3] or second.p[1, 3]:
        return 'P[1, 3] is not 0: cameras above each other are not supported'
    baseline = abs(first.p[0, 3] - second.p[0, 3]) / focal
    if not baseline:
        return (
            'P[0, 3] is the same for both, so that there is no baseline: calibrate them as a '
            'pair; in P of the second it is -fx times the baseline'
        )
    low, high = _BASELINE_M
    if not low <= baseline <= high:
        return (
            f'their baseline is {baseline:g} m, which no endoscope has: P[0, 3] of the second is '
            '-fx times the baseline in metres'
        )
    return ''


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
        return _parse_calibration(yaml.load(read_limited(path, _MAX_BYTES), _Loader))
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


def _parse_calibration(content: Mapping[str, Any]) -> CameraInfo:
    size = content['image_height'], content['image_width']
    if any(type(side) is not int for side in size):
        raise ValueError(f'image size {size}, expected whole numbers')
    shapes = {
        'camera_matrix': (3, 3),
        'rectification_matrix': (3, 3),
        'projection_matrix': (3, 4),
    }
    k, r, p = (_matrix_values(content, key).reshape(shape) for key, shape in shapes.items())
    d = _matrix_values(content, 'distortion_coefficients')
    return CameraInfo(size, str(content['distortion_model']), d, k, r, p)


def _matrix_values(content: Mapping[str, Any], key: str) -> Matrix:
    return np.array(content[key]['data'], np.float64).ravel()
