# SPDX-License-Identifier: Apache-2.0
"""Declares, reads and checks the node's parameters, and detects misspelled ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, ReliabilityPolicy
from rclpy.validate_topic_name import validate_topic_name

from surgseg_ros.core.errors import did_you_mean
from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.parameters import (
    AUTO,
    SPLIT_CAMERAS,
    TABLE,
    Parameter,
    camera_roi,
    check_choice,
    gate_settings,
    pipeline_settings,
)
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.segmentation import STEREO_LAYOUTS, Roi
from surgseg_ros.node.freshness import ResultPolicy
from surgseg_ros.node.image_subscriber import INPUT_POLICIES, possible_topics
from surgseg_ros.node.mailbox import Pairing
from surgseg_ros.node.outputs import DETECTIONS_3D_TOPIC, OUTPUT_POLICIES, RESULTS, prefixed


@dataclass(frozen=True)
class Settings:
    """The checked values of all parameters; the names are those of TABLE."""

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
    stereo_layout: str
    pairing: str
    pair_tolerance_ms: int
    pair_wait_ms: int
    camera_info_topics: tuple[str, ...]
    rectified: bool
    roi: tuple[int, ...]
    roi_mode: str
    overlay: bool
    report_distances: bool
    least_area: float
    min_confidence: float
    min_detection_score: float
    steady_frames: int
    steady_sure: float
    track_lost_ms: int
    stale_after_ms: int
    max_frame_age_ms: int
    age_source: str
    fail_safe: str
    no_image_warning_s: float
    gates: Mapping[str, GateSetting]

    def __post_init__(self) -> None:
        """
        Check the choices in TABLE, and that the values are consistent with each other.

        :raises ValueError: if not; it names the parameter, its value and the remedy.
        """
        for row in TABLE:
            check_choice(row, self.value_of(row.name))
        if self.is_split and len(self.image_topics) > 1:
            raise ValueError(
                f'stereo_layout is {self.stereo_layout!r}, and image_topics '
                f'{list(self.image_topics)}: give the one topic whose images hold both views, or '
                'set stereo_layout to none'
            )
        names, cameras = self.cameras, len(self.image_topics) * (2 if self.is_split else 1)
        if cameras == 0 or '' in self.image_topics or len(names) != cameras:
            raise ValueError(
                f'image_topics is {list(self.image_topics)} and camera_names {list(names)}: '
                f'give {"two names" if self.is_split else "one name per topic"}, and set both at '
                'once: in the parameters file or atomically'
            )
        if len(set(names)) != cameras:
            raise ValueError(f'camera_names is {list(names)}: give each camera a different name')
        infos = self.camera_info_topics
        if any(infos) and ('' in infos or len(infos) != cameras):
            raise ValueError(
                f'camera_info_topics is {list(infos)}: give one topic per camera, or leave '
                "it out for 'camera_info' beside each of them"
            )
        for name in (*self.image_topics, *filter(None, (*names, *infos))):
            _check_name(name)
        for index in range(cameras):
            self.roi_of(index)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> 'Settings':
        """
        Create settings from parameter values.

        :param values: values by name; lists become tuples.
        :return: the settings.
        :raises ValueError: if a value is not valid.
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
        Return the value of a parameter.

        :param name: name of a row of TABLE.
        :return: its value.
        """
        if not name.startswith('gates.'):
            return getattr(self, name)
        _, gate, part = name.split('.')
        return getattr(self.gates[gate], part)

    @property
    def policy(self) -> ResultPolicy:
        """The rules for publishing a result."""
        return ResultPolicy(
            **{entry.name: getattr(self, entry.name) for entry in fields(ResultPolicy)}
        )

    @property
    def is_split(self) -> bool:
        """Whether each image holds the views of two cameras."""
        return self.stereo_layout != STEREO_LAYOUTS[0]

    @property
    def cameras(self) -> tuple[str, ...]:
        """The names of the cameras, which are the prefixes of their outputs."""
        is_named = not self.is_split or any(self.camera_names)
        return self.camera_names if is_named else SPLIT_CAMERAS

    @property
    def pairs(self) -> Pairing | None:
        """The pairing of images of two cameras; None: images are processed one by one."""
        if self.pairing != AUTO or len(self.image_topics) != 2:
            return None
        return Pairing(self.pair_tolerance_ms, self.pair_wait_ms)

    @property
    def pipeline(self) -> PipelineSettings:
        """The settings of a camera's pipeline."""
        return pipeline_settings({row.name: self.value_of(row.name) for row in TABLE})

    def roi_of(self, camera: int) -> Roi | None:
        """
        Return a camera's region of interest.

        :param camera: index of the camera.
        :return: the region, or None for the whole image.
        :raises ValueError: see `camera_roi`.
        """
        return camera_roi(self.roi, camera, len(self.cameras), mode=self.roi_mode)


def declare(node: Node) -> None:
    """
    Declare every parameter of TABLE, with its type, description and range.

    :param node: the node; its overrides are checked against type and range.
    """
    for row in TABLE:
        node.declare_parameter(row.name, row.default, descriptor(row))


def read(node: Node) -> Settings:
    """
    Read the node's parameters.

    :param node: the node, which has declared them.
    :return: the settings.
    :raises ValueError: if a value is not valid.
    """
    return Settings.from_values({row.name: node.get_parameter(row.name).value for row in TABLE})


def _check_name(name: str) -> None:
    try:
        validate_topic_name(name)
    except InvalidTopicNameException as error:
        reason = str(error).partition('\n')[0].rstrip(':')
        raise ValueError(
            f'image_topics, camera_info_topics and camera_names cannot have {name!r}: {reason}'
        ) from error


def unknown(node: Node) -> list[str]:
    """
    Find parameters given on startup that do not exist, so that a typo is noticed.

    :param node: the node, which has declared its parameters.
    :return: names, sorted.
    """
    given = getattr(node, '_parameter_overrides', {})  # rclpy has no public API for this
    names = (name for name in given if not name.startswith('qos_overrides.'))
    return sorted(name for name in names if not node.has_parameter(name))


def descriptor(row: Parameter) -> ParameterDescriptor:
    """
    Create the descriptor of a parameter.

    :param row: a row of TABLE.
    :return: the descriptor: description, when the parameter is read, and range.
    """
    described = ParameterDescriptor(description=row.explanation)
    if row.choices:
        described.additional_constraints = 'One of: ' + ', '.join(row.choices)
    if row.span and isinstance(row.default, float):
        low, high = row.span
        described.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif row.span:
        low, high = (int(value) for value in row.span)
        described.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return described


_PREFIX: Final = 'qos_overrides.'

_ENUMS: Final = {
    'durability': DurabilityPolicy,
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
}


def overridable(node: Node, settings: Settings) -> dict[str, tuple[str, ...]]:
    """
    List the QoS overrides that are possible.

    :param node: the node, whose remappings apply.
    :param settings: settings with the image topics and the cameras.
    :return: the policies of each publisher or subscription, by the prefix of the parameters'
        names.
    """

    def named(topic: str, entity: str, kinds: Sequence[QoSPolicyKind]) -> None:
        start = f'{_PREFIX}{node.resolve_topic_name(topic)}.{entity}'
        policies[start] = tuple(kind.name.lower() for kind in kinds)

    policies: dict[str, tuple[str, ...]] = {}
    for topic in settings.image_topics:
        for name in possible_topics(node, topic, settings.image_transport):
            named(name, 'subscription', INPUT_POLICIES)
    for camera in settings.cameras:
        for topic in RESULTS:
            named(prefixed(camera, topic), 'publisher', OUTPUT_POLICIES)
    if len(settings.cameras) == 2:
        named(DETECTIONS_3D_TOPIC, 'publisher', OUTPUT_POLICIES)
    return policies


def find_misspelled(node: Node, known: Mapping[str, Sequence[str]]) -> list[str]:
    """
    Find values given on startup that have no effect, so that a typo is noticed.

    :param node: the node, which has declared its parameters.
    :param known: result of `overridable`.
    :return: a sentence for each, with the name that may have been meant.
    :raises ValueError: if a QoS override has a value that its policy cannot have.
    """
    given: Mapping[str, Any] = getattr(node, '_parameter_overrides', {})  # no public API
    names = [row.name for row in TABLE]
    without_effect = [
        f'there is no parameter {name!r}{did_you_mean(name, names)}' for name in unknown(node)
    ]
    for name in sorted(given):
        if name.startswith(_PREFIX):
            without_effect += _misspelled(name, known)
            _check(name, given[name].value)
    return [f'{text}: it is ignored' for text in without_effect]


def _misspelled(name: str, known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    entity, _, policy = name.rpartition('.')
    if policy in known.get(entity, ()):
        return
    if entity in known:
        reason = f'of {entity!r} only {", ".join(known[entity])} can be overridden'
        if entity.endswith('.subscription') and policy == 'reliability':
            reason += '; set the parameter `reliability` instead'
        yield f'there is no parameter {name!r} ({reason})'
        return
    full = [f'{start}.{policy}' for start, policies in known.items() for policy in policies]
    topic = entity.rpartition('.')[0]
    same_topic = [x for x in full if x.startswith(f'{topic}.')]
    yield f'there is no parameter {name!r}{did_you_mean(name, same_topic or full)}'


def _check(name: str, value: Any) -> None:
    """Reject values that rclpy would reject later, or pass to the middleware unchecked."""
    policy = name.rpartition('.')[2]
    if policy == 'depth' and (type(value) is not int or value < 1):
        raise ValueError(f'{name} is {value!r}, expected a whole number from 1 on')
    if policy in _ENUMS:
        choices = [x.lower() for x in _ENUMS[policy].__members__ if x != 'UNKNOWN']
        if not isinstance(value, str) or value.lower() not in choices:
            raise ValueError(f'{name} is {value!r}, expected one of {choices}')


def camera_info_topics(images: Sequence[str], views: Sequence[str] = ()) -> tuple[str, ...]:
    """
    Return the topics of the cameras' calibrations, named as in image_transport.

    :param images: the full names of the image topics.
    :param views: the names of the cameras, if the images of a single topic have the views of two.
    :return: `camera_info` beside each topic; for two views, `VIEW/camera_info` beside the topic.
    """
    bases = [image.removesuffix('/compressed').rpartition('/')[0] for image in images]
    if views:
        return tuple(f'{bases[0]}/{view}/camera_info' for view in views)
    return tuple(f'{base}/camera_info' for base in bases)
