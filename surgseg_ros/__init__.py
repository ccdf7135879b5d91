# SPDX-License-Identifier: Apache-2.0
"""
Segmentation of surgical instruments in endoscope images, as a ROS 2 package.

The names in `__all__` are the public Python API; everything else may change with any version.
Each is imported when it is first used: `import surgseg_ros` loads neither PyTorch nor rclpy.

    from surgseg_ros import Segmenter

    result = Segmenter.load().segment(rgb)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from warnings import warn

if TYPE_CHECKING:
    from surgseg_ros.core.detections import Instrument, OrientedBox
    from surgseg_ros.core.geometry import find_geometries, min_distances
    from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
    from surgseg_ros.core.labels import LABELS, NO_DECISION
    from surgseg_ros.core.model_folder import ModelError
    from surgseg_ros.core.overlay import draw_overlay
    from surgseg_ros.core.segmentation import Roi, Segmentation
    from surgseg_ros.core.segmenter import Segmenter

    __version__: str

__all__ = [
    'LABELS',
    'NO_DECISION',
    'Geometry',
    'Instrument',
    'Keypoint',
    'KeypointKind',
    'ModelError',
    'OrientedBox',
    'Roi',
    'Segmentation',
    'Segmenter',
    '__version__',
    'draw_overlay',
    'find_geometries',
    'min_distances',
]

_MODULES: Final = {
    'Geometry': 'surgseg_ros.core.keypoints',
    'Instrument': 'surgseg_ros.core.detections',
    'Keypoint': 'surgseg_ros.core.keypoints',
    'KeypointKind': 'surgseg_ros.core.keypoints',
    'LABELS': 'surgseg_ros.core.labels',
    'ModelError': 'surgseg_ros.core.model_folder',
    'NO_DECISION': 'surgseg_ros.core.labels',
    'OrientedBox': 'surgseg_ros.core.detections',
    'Roi': 'surgseg_ros.core.segmentation',
    'Segmentation': 'surgseg_ros.core.segmentation',
    'Segmenter': 'surgseg_ros.core.segmenter',
    'draw_overlay': 'surgseg_ros.core.overlay',
    'find_geometries': 'surgseg_ros.core.geometry',
    'min_distances': 'surgseg_ros.core.geometry',
}
"""Maps a public name to the module that defines it."""

_RENAMED: Final = {'least_distances': 'min_distances'}
"""Maps a former public name, which still works, to the present one."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == '__version__':
        from importlib.metadata import version

        value: Any = version('surgseg_ros')
    elif name in _RENAMED:
        warn(f'surgseg_ros.{name} is now {_RENAMED[name]}', DeprecationWarning, stacklevel=2)
        return __getattr__(_RENAMED[name])
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also before they are imported."""
    return sorted({*globals(), *__all__})
