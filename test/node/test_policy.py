# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy allows what the running node does, and no more."""

from xml.etree import ElementTree

import pytest
from bench import REPOSITORY, until

POLICY = REPOSITORY / 'config' / 'sros2' / 'segmenter.policy.xml'

# For each element: its attributes and allowed children, as in the schema of sros2.
SCHEMA = {
    'policy': ({'version'}, {'enclaves'}),
    'enclaves': (set(), {'enclave'}),
    'enclave': ({'path'}, {'profiles'}),
    'profiles': (set(), {'profile'}),
    'profile': ({'ns', 'node'}, {'topics', 'services', 'actions'}),
    'topics': ({'publish', 'subscribe'}, {'topic'}),
    'services': ({'reply', 'request'}, {'service'}),
    'topic': (set(), set()),
    'service': (set(), set()),
}

# Present only with simulated time, when another model is set, or with two cameras.
AT_TIMES = {
    ('subscribe', '/clock'),
    ('reply', '~/reload_model'),
    ('subscribe', 'camera_info'),
    ('publish', 'detections_3d'),
}


@pytest.fixture(scope='module')
def policy() -> ElementTree.Element:
    return ElementTree.parse(POLICY).getroot()


def test_every_element_is_one_of_the_schema(policy):
    assert policy.tag == 'policy'
    for element in policy.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) <= attributes, element.tag
        assert {child.tag for child in element} <= children, element.tag
        assert bool(children) == bool(len(element)), f'{element.tag} is empty, or is not'
        if element.tag in ('topics', 'services'):
            assert list(element.attrib.values()) == ['ALLOW']
    assert policy.attrib['version'] == '0.2.0'


def allowed(policy: ElementTree.Element) -> set[tuple[str, str]]:
    """List (kind, name); names as in the policy, relative to namespace and node."""
    return {
        (next(iter(group.attrib)), str(entry.text))
        for group in policy.find('.//profile')
        for entry in group
    }


def test_the_running_node_does_what_the_policy_allows(policy, start_node, model):
    own_node = start_node(model=str(model), steady_frames=2)  # with every optional topic
    namespace, node = own_node.bench.namespace, own_node.bench.node

    def named(name: str) -> str:
        for begin, short in ((f'{namespace}/segmenter/', '~/'), (f'{namespace}/', '')):
            if name.startswith(begin):
                return short + name.removeprefix(begin)
        return name

    def done() -> set[tuple[str, str]]:
        asked = {
            'publish': node.get_publisher_names_and_types_by_node,
            'subscribe': node.get_subscriber_names_and_types_by_node,
            'reply': node.get_service_names_and_types_by_node,
            'request': node.get_client_names_and_types_by_node,
        }
        return {
            (what, named(name))
            for what, ask in asked.items()
            for name, _ in ask('segmenter', namespace)
        }

    expected = allowed(policy)
    until(lambda: ('subscribe', 'image') in done(), 'the node listens')
    until(lambda: done() >= expected - AT_TIMES, 'all that is allowed is there')
    assert done() <= expected, f'add to {POLICY.name}: {sorted(done() - expected)}'
