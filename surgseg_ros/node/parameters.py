# SPDX-License-Identifier: Apache-2.0
"""The node's parameters as one checked value."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name

from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.parameters import (
    TABLE,
    Parameter,
    camera_roi,
    check_choice,
    gate_settings,
    pipeline_settings,
)
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.node.freshness import ResultPolicy


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
            check_choice(row, self.value_of(row.name))
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
        return cls(
            gates=gate_settings(values),
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
    def policy(self) -> ResultPolicy:
        """By what results are judged."""
        return ResultPolicy(
            **{entry.name: getattr(self, entry.name) for entry in fields(ResultPolicy)}
        )

    @property
    def pipeline(self) -> PipelineSettings:
        """What a camera's pipeline needs."""
        return pipeline_settings({row.name: self.value_of(row.name) for row in TABLE})

    def roi_of(self, camera: int) -> Roi | None:
        """
        Find a camera's part of the image.

        :param camera: its index.
        :return: the part, or None for the whole image.
        :raises ValueError: see `camera_roi`.
        """
        return camera_roi(self.roi, camera, len(self.image_topics))


def declare(node: Node) -> None:
    """
    Declare every parameter of TABLE, with its type, description and range.

    :param node: where; its overrides are held against type and range.
    """
    for row in TABLE:
        node.declare_parameter(row.name, row.default, descriptor(row))


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
            f'image_topics and camera_names cannot have {name!r}: {reason}'
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


def descriptor(row: Parameter) -> ParameterDescriptor:
    """
    Tell ROS what a row says.

    :param row: of TABLE.
    :return: its description, with when it is read, and its range.
    """
    reported = ParameterDescriptor(description=row.explanation)
    if row.choices:
        reported.additional_constraints = 'One of: ' + ', '.join(row.choices)
    if row.span and isinstance(row.default, float):
        low, high = row.span
        reported.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif row.span:
        low, high = (int(value) for value in row.span)
        reported.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return reported
