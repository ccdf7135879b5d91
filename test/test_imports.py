# SPDX-License-Identifier: Apache-2.0
"""Imports only follow the arrows of the drawing in CONTRIBUTING.md."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from surgseg_ros.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'surgseg_ros'
SOURCES = sorted([*PACKAGE.rglob('*.py'), *(ROOT / 'tools').rglob('*.py')])

ARROWS = {
    'core': set(),
    'messages': {'core'},
    'bags': {'messages', 'core'},
    'bag_evaluation': {'bags', 'messages', 'evaluation', 'reports', 'core'},
    'comparison': {'evaluation', 'core'},
    'node': {'bags', 'messages', 'core'},
    'benchmarking': {'node', 'messages', 'reports', 'core'},
    'training': {'evaluation', 'core'},
    'synthetic': {'core'},
    'exporting': {'training', 'synthetic', 'evaluation', 'core'},
    'evaluation': {'reports', 'core'},
    'reports': {'core'},
}
ARROWS['cli'] = set(ARROWS)

WITH_ROS = {'node'}
ROS_OF_THE_NODE = {'rclpy', 'ament_index_python', 'launch', 'launch_ros'}


def modules(package: str) -> list[Path]:
    return sorted((PACKAGE / package).rglob('*.py'))


def imported(file: Path | ast.Module) -> Iterator[str]:
    """Yield every module that a file imports, wherever the import is."""
    for node in ast.walk(ast.parse(file.read_text()) if isinstance(file, Path) else file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file} imports relatively: write surgseg_ros. ...'
            yield f'{node.module}'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def packages_in(names: Iterator[str]) -> set[str]:
    parts = (name.split('.') for name in names)
    return {part[1] for part in parts if part[0] == 'surgseg_ros' and len(part) > 1} & set(ARROWS)


def test_the_drawing_has_every_package() -> None:
    assert {path.parent.name for path in PACKAGE.glob('*/__init__.py')} == set(ARROWS)


@pytest.mark.parametrize('package', ARROWS)
def test_no_import_runs_against_an_arrow(package: str) -> None:
    allowed = ARROWS[package] | {package}
    wrong = {
        f'{path.relative_to(PACKAGE)}: {sorted(beyond)}'
        for path in modules(package)
        if (beyond := packages_in(imported(path)) - allowed)
    }
    assert not wrong


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {module_name(path): path for path in PACKAGE.rglob('*.py')}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
                node.body = [ast.Pass()]
        graph[name] = ({*imported(tree)} & names.keys()) - {name, 'surgseg_ros'}
    assert cycle_in(graph) == []
    assert cycle_in({'a': {'b'}, 'b': {'c'}, 'c': {'a'}}) != []


def test_readers_of_intact_bags_do_not_depend_on_recovery() -> None:
    recovery = 'surgseg_ros.bags.recovery'
    users = {
        path.stem
        for path in PACKAGE.rglob('*.py')
        if path.parent.name != 'recovery'
        and any(name.startswith(recovery) for name in imported(path))
    }
    assert users == {'sources'}  # which opens an intact file, or else recovers it


@pytest.mark.parametrize('package', sorted(set(ARROWS) - WITH_ROS))
def test_only_the_node_imports_ros(package: str) -> None:
    wrong = {
        f'{path.relative_to(PACKAGE)}: {name}'
        for path in modules(package)
        for name in imported(path)
        if name.split('.')[0] in ROS_OF_THE_NODE or name.split('.')[0].endswith('_msgs')
    }
    assert not wrong


@pytest.mark.parametrize('package', sorted(set(ARROWS) - {'reports'}))
def test_only_one_package_imports_libraries_for_pages_and_charts(package: str) -> None:
    libraries = {'jinja2', 'matplotlib'}
    names = {name.split('.')[0] for path in modules(package) for name in imported(path)}
    assert not names & libraries


@pytest.mark.parametrize(
    'module',
    [
        *(VERBS[verb].target.split(':')[0] for verb in ('synthesize', 'make_bag')),
        'surgseg_ros.bag_evaluation.collector',  # runs in several processes
        'surgseg_ros.messages.images',  # in the camera and the listener of `benchmark`
    ],
)
def test_some_modules_import_neither_ros_nor_torch(module: str) -> None:
    script = f'import sys, {module}; print(*sys.modules)'
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not {'rclpy', 'torch'} & set(run.stdout.split())


def test_the_node_is_created_without_torch() -> None:
    """Its services respond while torch is being imported, which takes seconds."""
    script = (
        'import pkgutil, importlib, sys, surgseg_ros.node as package\n'
        'for module in pkgutil.iter_modules(package.__path__, "surgseg_ros.node."):\n'
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
    script = 'import sys, surgseg_ros.cli.benchmark, surgseg_ros.benchmarking.stages; '
    script += 'print(*sys.modules)'
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not {name for name in run.stdout.split() if name.split('.')[0] in ROS_OF_THE_NODE}


HARMLESS = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AnnAssign, ast.Assign),
    *(ast.If, ast.Try, ast.Pass),
)


def statements(tree: ast.Module | ast.ClassDef | ast.If | ast.Try) -> Iterator[ast.stmt]:
    """Yield the statements that an import runs, except `if __name__ == '__main__'`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and '__name__' in ast.dump(node.test):
            continue
        if isinstance(node, ast.ExceptHandler):
            yield from node.body
        elif isinstance(node, ast.stmt):
            yield node
            if isinstance(node, ast.ClassDef | ast.If | ast.Try):
                yield from statements(node)


def has_side_effects(node: ast.stmt) -> bool:
    """Return whether a statement may have side effects outside the module."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)  # a docstring, or `...`
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return not isinstance(node, HARMLESS) or not all(
        isinstance(name, ast.Name | ast.Tuple) for name in targets
    )


def test_importing_modules_has_no_side_effects() -> None:
    """Code that sets, patches or blocks something is in a function that an entry point calls."""
    wrong = [
        f'{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}'
        for path in SOURCES
        for node in statements(ast.parse(path.read_text()))
        if has_side_effects(node)
    ]
    assert not wrong


STATE = """
import contextlib, gc, importlib, json, logging, os, random, signal, sys, threading, warnings

def state():
    import cv2, numpy, torch
    return {
        'os.environ': dict(os.environ),
        'sys.path': list(sys.path),
        'sys.meta_path': list(map(repr, sys.meta_path)),
        'blocked modules': sorted(name for name, module in sys.modules.items() if module is None),
        'warnings.filters': list(map(repr, warnings.filters)),
        'signal handlers': [repr(signal.getsignal(n)) for n in signal.valid_signals()],
        'blocked signals': sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        'threads': sorted(thread.name for thread in threading.enumerate()),
        'tasks': len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 0,
        'logging': [repr(logging.root.handlers), logging.root.level, logging.root.manager.disable],
        'excepthook': repr(sys.excepthook),
        'cv2 threads': cv2.getNumThreads(),
        'torch threads': [torch.get_num_threads(), torch.get_num_interop_threads()],
        'torch gradients': torch.is_grad_enabled(),
        'torch dtype': repr(torch.get_default_dtype()),
        'numpy errors': numpy.geterr(),
        'random': hash(random.getstate()),
        'numpy random': repr(numpy.random.get_state()),
        'torch random': torch.get_rng_state().sum().item(),
        'folder': os.getcwd(),
    }

def attempt(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        return error.name

gc.disable()  # all that is imported stays
asked = json.load(sys.stdin)
for name in asked['others']:
    with contextlib.suppress(Exception):
        attempt(name)  # what libraries do when they are imported is theirs
found = {'changed': [], 'missing': {}}
before = state()
for name in asked['ours']:
    if missing := attempt(name):
        found['missing'][name] = missing
    after = state()
    found['changed'] += [f'{name}: {key}' for key in after if after[key] != before[key]]
    before = after
print(json.dumps(found))
"""

FLAT = 'tools/ros_from_pypi'
"""Folders of scripts that run before anything is installed, so they import each other by name."""


def imported_by(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {f'{node.module}'} if isinstance(node, ast.ImportFrom) else set()


def module_name(path: Path) -> str:
    if path.parent == ROOT / FLAT:
        return path.stem
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def test_importing_a_module_changes_nothing_in_the_process() -> None:
    ours = [module_name(path) for path in SOURCES]
    tops = {name.split('.')[0] for name in ours}
    top_level = (n for path in SOURCES for n in statements(ast.parse(path.read_text())))
    others = {name for node in top_level for name in imported_by(node)}
    others = {name for name in others if name.split('.')[0] not in tops}
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', STATE],
        input=json.dumps({'ours': ours, 'others': sorted(others)}),
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join((str(ROOT), str(ROOT / FLAT)))},
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert not found['changed']
    missing = {name.split('.')[0] for name in found['missing'].values()}
    ros = {name for name in missing if name.endswith(('_msgs', '_interfaces', '_srvs'))}
    assert missing <= ros | ROS_OF_THE_NODE | {'atheris', 'bpy'}
