# SPDX-License-Identifier: Apache-2.0
"""The house: an import may only go along an arrow of the drawing in CONTRIBUTING.md."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgseg_ros.__main__ import VERBS

HOUSE = Path(__file__).resolve().parents[1] / 'surgseg_ros'

ARROWS = {
    'core': set(),
    'messages': {'core'},
    'bags': {'messages', 'core'},
    'bag_evaluation': {'bags', 'messages', 'evaluation', 'reports', 'core'},
    'node': {'bags', 'messages', 'core'},
    'benchmarking': {'node', 'messages', 'reports', 'core'},
    'training': {'evaluation', 'core'},
    'exporting': {'training', 'evaluation', 'core'},
    'evaluation': {'reports', 'core'},
    'reports': {'core'},
}

ROOMS_WITH_ROS = {'node', 'benchmarking'}
ROS_OF_THE_NODE = {'rclpy', 'ament_index_python', 'launch', 'launch_ros'}


def modules(room: str) -> list[Path]:
    return sorted((HOUSE / room).rglob('*.py'))


def imported(path: Path) -> Iterator[str]:
    """Name every module that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively: write surgseg_ros. ...'
            yield f'{node.module}'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def rooms_in(names: Iterator[str]) -> set[str]:
    parts = (name.split('.') for name in names)
    return {part[1] for part in parts if part[0] == 'surgseg_ros' and len(part) > 1} & set(ARROWS)


def test_the_drawing_has_every_room() -> None:
    assert {path.parent.name for path in HOUSE.glob('*/__init__.py')} == set(ARROWS)


@pytest.mark.parametrize('room', ARROWS)
def test_no_import_runs_against_an_arrow(room: str) -> None:
    allowed = ARROWS[room] | {room}
    wrong = {
        f'{path.relative_to(HOUSE)}: {sorted(beyond)}'
        for path in modules(room)
        if (beyond := rooms_in(imported(path)) - allowed)
    }
    assert not wrong


@pytest.mark.parametrize('room', sorted(set(ARROWS) - ROOMS_WITH_ROS))
def test_ros_is_known_to_the_node_and_its_benchmark_alone(room: str) -> None:
    wrong = {
        f'{path.relative_to(HOUSE)}: {name}'
        for path in modules(room)
        for name in imported(path)
        if name.split('.')[0] in ROS_OF_THE_NODE or name.split('.')[0].endswith('_msgs')
    }
    assert not wrong


@pytest.mark.parametrize('room', sorted(set(ARROWS) - {'reports'}))
def test_pages_and_charts_are_made_in_one_room(room: str) -> None:
    libraries = {'jinja2', 'matplotlib'}
    names = {name.split('.')[0] for path in modules(room) for name in imported(path)}
    assert not names & libraries


@pytest.mark.parametrize('verb', VERBS)
def test_help_of_a_verb(verb: str) -> None:
    command = [sys.executable, '-X', 'importtime', '-m', 'surgseg_ros', verb, '--help']
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f'surgseg_ros {verb}' in run.stdout
    of_reports = re.search(r'\| +matplotlib$', run.stderr, re.MULTILINE)
    assert not of_reports or verb == 'train'  # Lightning's torchmetrics imports it in any case


@pytest.mark.parametrize('verb', ['synthesize', 'make_bag'])
def test_what_needs_neither_ros_nor_torch(verb: str) -> None:
    module = VERBS[verb].target.split(':')[0]
    script = f'import sys, {module}; print(*sys.modules)'
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not {'rclpy', 'torch'} & set(run.stdout.split())


def test_the_node_is_made_without_torch() -> None:
    """Its services answer while torch is still being imported, which takes seconds."""
    script = (
        'import pkgutil, importlib, sys, surgseg_ros.node as room\n'
        'for module in pkgutil.iter_modules(room.__path__, "surgseg_ros.node."):\n'
        '    if module.name != "surgseg_ros.node.launching":\n'
        '        importlib.import_module(module.name)\n'
        'import rclpy\n'
        'rclpy.init(args=[])\n'
        'sys.modules["surgseg_ros.node.segmenter_node"].SegmenterNode().stop()\n'
        'print(*sys.modules)'
    )
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    heavy = {'torch', 'torchvision', 'timm', 'segmentation_models_pytorch', 'openvino'}
    assert not heavy & set(run.stdout.split())


def test_stages_are_measured_without_ros() -> None:
    script = 'import sys, surgseg_ros.benchmark, surgseg_ros.benchmarking.stages; '
    script += 'print(*sys.modules)'
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not {name for name in run.stdout.split() if name.split('.')[0] in ROS_OF_THE_NODE}
