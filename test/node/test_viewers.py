# SPDX-License-Identifier: Apache-2.0
"""The files for RViz and Foxglove use only topics and keys that the running node offers."""

import importlib
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from bench import REPOSITORY
from nodes import NodeInProcess
from sensor_msgs.msg import Image

from surgseg_ros.node.health import DEGRADED, INACTIVE, STALE, VALID

IMAGE = 'sensor_msgs/msg/Image'
DIAGNOSTICS = 'diagnostic_msgs/msg/DiagnosticArray'

# Message paths of Foxglove: a topic, then fields; of lists, all elements or those with a value.
PATH = re.compile(r"(/[\w/]+)((?:\.\w+(?:\[:\](?:\{\w+=='[^']*'\})?)?)*)")
FIELD = re.compile(r"\.(\w+)(\[:\])?(?:\{(\w+)=='([^']*)'\})?")


@pytest.fixture(scope='module')
def offered(model) -> Iterator[SimpleNamespace]:
    """Yield the topics of a running node, with their types, and its keys in /diagnostics."""
    own_node = NodeInProcess(model=str(model))
    try:
        name, namespace = own_node.node.get_name(), own_node.node.get_namespace()
        by_node = own_node.node.get_publisher_names_and_types_by_node(
            name, namespace
        ) + own_node.node.get_subscriber_names_and_types_by_node(name, namespace)
        diagnostics, mask = own_node.bench.diagnostics(), own_node.bench.listen(Image, 'mask')
        own_node.bench.connect(own_node.bench.camera(), mask)
        part = diagnostics.wait(lambda part: part.numbers['published'] != '0')
        yield SimpleNamespace(
            types={topic.removeprefix(namespace): kinds[0] for topic, kinds in by_node},
            name=part.name.removeprefix(f'{namespace}/'.lstrip('/')),
            numbers=part.numbers,
        )
    finally:
        own_node.close()


@pytest.fixture(scope='module')
def displays() -> list[dict[str, Any]]:
    text = (REPOSITORY / 'config/rviz/segmenter.rviz').read_text()
    return yaml.safe_load(text)['Visualization Manager']['Displays']


@pytest.fixture(scope='module')
def layout() -> dict[str, Any]:
    return json.loads((REPOSITORY / 'config/foxglove/segmenter.json').read_text())


def panels(layout: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [c for name, c in layout['configById'].items() if name.startswith(f'{kind}!')]


def paths(layout: dict[str, Any]) -> list[str]:
    """List the message paths of all panels that have any."""
    several = [
        panel['paths'] for kind in ('Plot', 'StateTransitions') for panel in panels(layout, kind)
    ]
    return [
        *(path['value'] for group in several for path in group),
        *(panel['path'] for panel in panels(layout, 'Indicator')),
        *(panel['topicPath'] for panel in panels(layout, 'RawMessages')),
    ]


def fields_of(kind: str) -> dict[str, str]:
    package, _, name = kind.replace('/msg/', '/').partition('/')
    return getattr(importlib.import_module(f'{package}.msg'), name).get_fields_and_field_types()


def test_rviz_shows_the_image_and_the_overlay(offered, displays):
    assert {display['Class'] for display in displays} == {'rviz_default_plugins/Image'}
    topics = [display['Topic']['Value'] for display in displays]
    assert topics == ['/image', '/overlay']
    assert {offered.types[topic] for topic in topics} == {IMAGE}


def test_foxglove_shows_images_and_diagnostics(offered, layout):
    topics = [panel['imageMode']['imageTopic'] for panel in panels(layout, 'Image')]
    assert topics == ['/image', '/overlay']
    assert {offered.types[topic] for topic in topics} == {IMAGE}
    (summary,) = panels(layout, 'DiagnosticSummary')
    assert offered.types[summary['topicToRender']] == DIAGNOSTICS


def test_every_message_path_of_foxglove_exists_in_the_messages_of_the_node(offered, layout):
    topics = set()
    for path in paths(layout):
        match = PATH.fullmatch(path)
        assert match, path
        topics.add(match[1])
        kind = offered.types[match[1]]
        for name, all_of, filtered, _ in FIELD.findall(match[2]):
            kind = fields_of(kind)[name]
            listed = re.fullmatch(r'sequence<(.*)>', kind)
            assert bool(listed) >= bool(all_of), path
            if all_of:
                kind = listed[1]
            assert not filtered or fields_of(kind)[filtered] == 'string', path
    assert topics == {'/status', '/detections', '/diagnostics'}


def test_keys_plotted_by_foxglove_are_keys_of_the_node(offered, layout):
    plotted = [path['value'] for panel in panels(layout, 'Plot') for path in panel['paths']]
    filters = [FIELD.findall(PATH.fullmatch(path)[2]) for path in plotted]
    assert {names[0][2:] for names in filters} == {('name', offered.name)}
    keys = [names[1][3] for names in filters]
    assert keys == ['age_p50_ms', 'age_p99_ms', 'in_hz', 'out_hz']
    for key in keys:
        assert float(offered.numbers[key]) >= 0.0


def test_foxglove_has_a_colour_for_each_state(layout):
    (indicator,) = panels(layout, 'Indicator')
    states = [rule['rawValue'] for rule in indicator['rules']]
    assert states == [VALID, DEGRADED, STALE, INACTIVE]


def test_every_panel_of_foxglove_is_in_the_layout(layout):
    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        else:
            for half in ('first', 'second'):
                yield from leaves(value[half])

    assert sorted(leaves(layout['layout'])) == sorted(layout['configById'])
