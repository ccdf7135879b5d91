# SPDX-License-Identifier: Apache-2.0
"""What was given to the node at its start and has no effect: slips in names and QoS overrides."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, ReliabilityPolicy

from surgseg_ros.core.parameters import TABLE, did_you_mean
from surgseg_ros.node.image_subscriber import INPUT_POLICIES
from surgseg_ros.node.outputs import OUTPUT_POLICIES, RESULTS, prefixed
from surgseg_ros.node.parameters import Settings, unknown
from surgseg_ros.node.transports import possible_topics

_PREFIX: Final = 'qos_overrides.'

_ENUMS: Final = {
    'durability': DurabilityPolicy,
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
}


def overridable(node: Node, settings: Settings) -> dict[str, tuple[str, ...]]:
    """
    Name what QoS overrides there may be.

    :param node: whose remappings count.
    :param settings: name the image topics and the cameras.
    :return: the policies of each publisher or subscription, by the beginning of the parameters'
        names.
    """

    def named(topic: str, entity: str, kinds: Sequence[QoSPolicyKind]) -> None:
        start = f'{_PREFIX}{node.resolve_topic_name(topic)}.{entity}'
        policies[start] = tuple(kind.name.lower() for kind in kinds)

    policies: dict[str, tuple[str, ...]] = {}
    for topic in settings.image_topics:
        for name in possible_topics(node, topic, settings.image_transport):
            named(name, 'subscription', INPUT_POLICIES)
    for camera in settings.camera_names:
        for topic in RESULTS:
            named(prefixed(camera, topic), 'publisher', OUTPUT_POLICIES)
    return policies


def slips(node: Node, known: Mapping[str, Sequence[str]]) -> list[str]:
    """
    Find what was given at the start and has no effect: a slip must not go unseen.

    :param node: which has declared its parameters.
    :param known: see `overridable`.
    :return: a sentence for each, with what may have been meant.
    :raises ValueError: if a QoS override has a value that its policy cannot have.
    """
    given: Mapping[str, Any] = getattr(node, '_parameter_overrides', {})  # there is no public way
    names = [row.name for row in TABLE]
    reported = [
        f'there is no parameter {name!r}{did_you_mean(name, names)}' for name in unknown(node)
    ]
    for name in sorted(given):
        if name.startswith(_PREFIX):
            reported += _slip(name, known)
            _check(name, given[name].value)
    return [f'{text}: it is ignored' for text in reported]


def _slip(name: str, known: Mapping[str, Sequence[str]]) -> Iterator[str]:
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
    """Refuse what rclpy would refuse later, or hand on to the middleware as it is."""
    policy = name.rpartition('.')[2]
    if policy == 'depth' and (type(value) is not int or value < 1):
        raise ValueError(f'{name} is {value!r}, expected a whole number from 1 on')
    if policy in _ENUMS:
        choices = [x.lower() for x in _ENUMS[policy].__members__ if x != 'UNKNOWN']
        if not isinstance(value, str) or value.lower() not in choices:
            raise ValueError(f'{name} is {value!r}, expected one of {choices}')
