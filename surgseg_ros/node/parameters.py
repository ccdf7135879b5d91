# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: one table, and the settings that it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.gates import ACTIONS, DEFAULTS, GATES, GateSetting
from surgseg_ros.core.runtimes import AUTO, RUNTIMES
from surgseg_ros.core.runtimes import CHOICES as PRECISIONS
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.steadiness import LARGEST_FRAMES
from surgseg_ros.node.freshness import (
    AGE_SOURCES,
    FAIL_SAFES,
    OLDEST_BELIEVED_MS,
    RECEIPT,
    SILENT,
    Rules,
)

TRANSPORTS: Final = ('raw', 'compressed')
RELIABILITIES: Final = ('auto', 'reliable', 'best_effort')


class Parameter(NamedTuple):
    """One row of the table."""

    name: str
    default: Any
    description: str
    span: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether a change takes effect at once; the others are read at configure."""


_GATES: Final = tuple(
    row
    for name, gate in GATES.items()
    for row in (
        Parameter(
            f'gates.{name}.action',
            DEFAULTS[name].action,
            f'What is done where {gate.trouble}: nothing, a warning in status, or a mask of 255.',
            choices=ACTIONS,
        ),
        Parameter(
            f'gates.{name}.limit',
            gate.limit,
            f'From where on {gate.trouble}; docs/safety.md says of what.',
            gate.span,
        ),
    )
)

TABLE: Final = (
    Parameter('autostart', True, 'Configure and activate at start, without a lifecycle manager.'),
    Parameter(
        'model',
        '',
        'Model folder, with model.json and weights.safetensors. No default. Set while the node is '
        'configured, it is loaded, tested, and takes over between two frames.',
    ),
    Parameter('device', 'auto', 'auto (CUDA where there is one), cpu, cuda, cuda:1 ...'),
    Parameter(
        'runtime',
        AUTO,
        'What runs the network; auto: the fastest that machine and model folder have.',
        choices=(AUTO, *RUNTIMES),
    ),
    Parameter(
        'precision',
        AUTO,
        'What the network computes in; auto: as it was exported, and with torch bf16 on CUDA, f32 '
        'on the CPU.',
        choices=PRECISIONS,
    ),
    Parameter('cpu_threads', 0, "Threads of torch on the CPU; 0: torch's choice.", (0, 256)),
    Parameter('image_transport', 'raw', 'Image, or CompressedImage.', choices=TRANSPORTS),
    Parameter(
        'reliability',
        'auto',
        'Of the image subscription; auto: reliable only if all publishers offer it.',
        choices=RELIABILITIES,
    ),
    Parameter('image_topics', ['image'], 'Image topics, one per camera; relative names.'),
    Parameter('camera_names', [''], 'Prefixes of the outputs, one per image topic; left, right.'),
    Parameter(
        'roi',
        [0, 0, 0, 0],
        "The endoscope's part of the picture: x, y, width, height in pixels, for all cameras or "
        'for each in turn; outside it the mask is 255. All 0: the whole picture.',
    ),
    Parameter('overlay', True, 'Offer the overlay topic; drawn only with a subscriber.'),
    Parameter(
        'least_area',
        DEFAULT_LEAST_AREA,
        "Least share of the picture's area that a detection must have.",
        (0.0, 1.0),
        live=True,
    ),
    Parameter(
        'min_confidence',
        0.0,
        'Least calibrated confidence of a pixel; one below it is 255, no decision. 0: off.',
        (0.0, 1.0),
        live=True,
    ),
    Parameter(
        'steady_frames',
        0,
        'Pictures in a row that must say the same other class before a pixel changes; 0: off.',
        (0, LARGEST_FRAMES),
    ),
    Parameter(
        'steady_sure',
        0.95,
        'Or the confidence with which a single one must say it.',
        (0.01, 1.0),
    ),
    *_GATES,
    Parameter(
        'stale_after_ms',
        500,
        'Status is stale after so many milliseconds without a new mask; a result that is older '
        'when done is not published.',
        (10, 600_000),
        live=True,
    ),
    Parameter(
        'max_frame_age_ms',
        0,
        'A result whose picture is older than so many milliseconds, by age_source, is not '
        'published as valid. 0: no limit but stale_after_ms.',
        (0, int(OLDEST_BELIEVED_MS)),
        live=True,
    ),
    Parameter(
        'age_source',
        RECEIPT,
        "From when max_frame_age_ms counts: receipt by this machine, or the header's stamp, for "
        'cameras that have the same clock as the node.',
        choices=AGE_SOURCES,
        live=True,
    ),
    Parameter(
        'fail_safe',
        SILENT,
        'While stale, and for a result that is too old: silent, or no_decision (a mask of 255, '
        'once and then every stale_after_ms).',
        choices=FAIL_SAFES,
        live=True,
    ),
    Parameter(
        'no_image_warning_s',
        5.0,
        'Say why no image may come after so many seconds without one.',
        (0.1, 3600.0),
        live=True,
    ),
)
LIVE: Final = frozenset(row.name for row in TABLE if row.live)


@dataclass(frozen=True)
class Settings:
    """The parameters as one value, checked; the names are those of TABLE."""

    autostart: bool
    model: str
    device: str
    runtime: str
    precision: str
    cpu_threads: int
    image_transport: str
    reliability: str
    image_topics: tuple[str, ...]
    camera_names: tuple[str, ...]
    roi: tuple[int, ...]
    overlay: bool
    least_area: float
    min_confidence: float
    steady_frames: int
    steady_sure: float
    stale_after_ms: int
    max_frame_age_ms: int
    age_source: str
    fail_safe: str
    no_image_warning_s: float
    gates: Mapping[str, GateSetting]

    def __post_init__(self) -> None:
        """
        Hold the values against each other; each by itself is held against TABLE's row.

        :raises ValueError: naming the parameter, its value and the remedy.
        """
        for row in TABLE:
            value = self.value_of(row.name)
            if row.choices and value not in row.choices:
                raise ValueError(f'{row.name} is {value!r}, expected one of {row.choices}')
        cameras = len(self.image_topics)
        names = self.camera_names
        if cameras == 0 or '' in self.image_topics or len(names) != cameras:
            raise ValueError(
                f'image_topics is {list(self.image_topics)} and camera_names {list(names)}: '
                'give one name to each topic, both at once: in the parameters file, or atomically'
            )
        if len(set(names)) != cameras:
            raise ValueError(f'camera_names is {list(names)}: give each camera a name of its own')
        for name in (*self.image_topics, *filter(None, names)):
            _check_name(name)
        if len(self.roi) not in (4, 4 * cameras) or min(self.roi) < 0:
            raise ValueError(
                f'roi is {list(self.roi)}, expected x, y, width, height in pixels, '
                f'once or for each of {cameras} cameras'
            )
        for index in range(cameras):
            self.roi_of(index)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> 'Settings':
        """
        Make settings of parameter values.

        :param values: by name; lists become tuples.
        :return: the settings.
        :raises ValueError: if values do not fit.
        """
        known = {entry.name for entry in fields(cls)}
        gates = {
            name: GateSetting(values[f'gates.{name}.action'], values[f'gates.{name}.limit'])
            for name in GATES
        }
        return cls(
            gates=gates,
            **{
                name: tuple(value)
                if isinstance(value, (list, tuple)) or hasattr(value, 'tolist')
                else value
                for name, value in values.items()
                if name in known
            },
        )

    def value_of(self, name: str) -> Any:
        """
        Find the value of a parameter.

        :param name: of a row of TABLE.
        :return: its value.
        """
        if not name.startswith('gates.'):
            return getattr(self, name)
        _, gate, part = name.split('.')
        return getattr(self.gates[gate], part)

    @property
    def rules(self) -> Rules:
        """By what results are judged."""
        return Rules(**{entry.name: getattr(self, entry.name) for entry in fields(Rules)})

    def roi_of(self, camera: int) -> Roi | None:
        """
        Find a camera's part of the picture.

        :param camera: its index.
        :return: the part, or None for the whole picture.
        :raises ValueError: if only one of its sides is 0.
        """
        values = self.roi[4 * camera : 4 * camera + 4] if len(self.roi) > 4 else self.roi
        if not any(values):
            return None
        roi = Roi(*(int(value) for value in values))
        if not roi.width_px or not roi.height_px:
            raise ValueError(f'roi is {list(self.roi)}: width and height must be above 0')
        return roi


def declare(node: Node) -> None:
    """
    Declare every parameter of TABLE, with its type, description and range.

    :param node: where; its overrides are held against type and range.
    """
    for row in TABLE:
        node.declare_parameter(row.name, row.default, _descriptor(row))


def read(node: Node) -> Settings:
    """
    Read the node's parameters.

    :param node: which has declared them.
    :return: the settings.
    :raises ValueError: if they do not fit.
    """
    return Settings.from_values({row.name: node.get_parameter(row.name).value for row in TABLE})


def _check_name(name: str) -> None:
    try:
        validate_topic_name(name)
    except InvalidTopicNameException as error:
        reason = str(error).partition('\n')[0].rstrip(':')
        raise ValueError(
            f'image_topics and camera_names can not have {name!r}: {reason}'
        ) from error


def unknown(node: Node) -> list[str]:
    """
    Find what was given at the start but is no parameter: a slip in a limit must not go unseen.

    :param node: which has declared its parameters.
    :return: names, sorted.
    """
    given = getattr(node, '_parameter_overrides', {})  # rclpy has no public way to ask
    names = (name for name in given if not name.startswith('qos_overrides.'))
    return sorted(name for name in names if not node.has_parameter(name))


def _descriptor(row: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=row.description)
    if row.choices:
        descriptor.additional_constraints = 'One of: ' + ', '.join(row.choices)
    elif not row.live:
        descriptor.additional_constraints = 'Read when the node is configured.'
    if row.span and isinstance(row.default, float):
        low, high = row.span
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif row.span:
        low, high = (int(value) for value in row.span)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor
