# SPDX-License-Identifier: Apache-2.0
"""The package as colcon, rosdep and `ros2 run` read it."""

import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from surgseg_ros.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ('launch', 'config', 'models')


@pytest.fixture(scope='module')
def package() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def run_setup(*arguments: str | Path, folder: Path = ROOT) -> str:
    """Run setup.py as colcon does."""
    command = [sys.executable, '-W', 'ignore', 'setup.py', '--quiet', *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def files_in(root: Path, folders: Iterable[str]) -> set[str]:
    """Return the files in some folders of `root`, without byte code."""
    paths = (path for folder in folders for path in (root / folder).rglob('*'))
    return {str(p.relative_to(root)) for p in paths if p.is_file() and p.suffix != '.pyc'}


def test_package_xml_is_an_ament_python_package(package: ElementTree.Element) -> None:
    assert package.attrib['format'] == '3'
    assert package.findtext('name') == 'surgseg_ros'
    assert package.findtext('export/build_type') == 'ament_python'
    assert package.findtext('license') == 'Apache-2.0'


def test_the_maintainer_can_be_parsed(package: ElementTree.Element) -> None:
    """If colcon cannot parse an address, it silently no longer recognizes a ROS package."""
    for maintainer in package.findall('maintainer'):
        address = maintainer.attrib['email']
        assert re.fullmatch(r'[-\w.+]+@[-\w.]+\.[a-zA-Z]{2,}', address), address


def test_catkin_accepts_package_xml() -> None:
    catkin = pytest.importorskip('catkin_pkg.package', reason='colcon is not installed here')
    warnings: list[str] = []
    parsed = catkin.parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    parsed.validate(warnings=warnings)
    assert not warnings


# catkin_pkg asks docutils for nodes by an old name.
@pytest.mark.filterwarnings('ignore:nodes.Node.traverse:DeprecationWarning')
def test_a_release_can_be_made_from_the_changelog() -> None:
    """As catkin_prepare_release and bloom do: `Forthcoming` gets a version and a date."""
    version = pytest.importorskip('catkin_pkg.package_version', reason='colcon is not installed')
    changelog = pytest.importorskip('catkin_pkg.changelog', reason='colcon is not installed')
    text = (ROOT / 'CHANGELOG.rst').read_text()
    assert text.splitlines()[1] == 'Changelog for package surgseg_ros'
    label = version.get_forthcoming_label(text)
    released = version.rename_section(text, label, '1.2.3 (2026-11-29)')
    made = changelog.populate_changelog_from_rst(changelog.Changelog('surgseg_ros'), released)
    (content,) = made.get_content_of_version('1.2.3')
    assert len(content.bullets) == text.count('\n* ')


def test_setup_and_package_xml_agree(package: ElementTree.Element) -> None:
    described = [package.findtext('name'), package.findtext('version')]
    assert run_setup('--name', '--version').split() == described


def test_the_environment_has_this_version(package: ElementTree.Element) -> None:
    assert importlib.metadata.version('surgseg_ros') == package.findtext('version')


def test_executables_go_where_ros2_run_looks() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    assert settings['develop']['script_dir'] == '$base/lib/surgseg_ros'
    assert settings['install']['install_scripts'] == '$base/lib/surgseg_ros'


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the package as colcon does."""
    source = tmp_path_factory.mktemp('source')
    for name in ('package.xml', 'setup.py', 'setup.cfg'):
        shutil.copy(ROOT / name, source)
    for folder in ('surgseg_ros', 'resource', *SHARED):
        shutil.copytree(ROOT / folder, source / folder)
    prefix = tmp_path_factory.mktemp('prefix')
    where = ('--prefix', prefix, '--record', source / 'files')
    run_setup('install', '--single-version-externally-managed', *where, folder=source)
    return prefix


@pytest.mark.parametrize('name', ['surgseg_ros', *VERBS])
def test_every_verb_is_an_executable(installed: Path, name: str) -> None:
    assert os.access(installed / 'lib' / 'surgseg_ros' / name, os.X_OK)


@pytest.mark.parametrize('words', [['compare'], ['surgseg_ros', 'compare']])
def test_an_executable_exits_like_the_verb_on_the_command_line(
    installed: Path, words: list[str]
) -> None:
    (packages,) = installed.glob('lib/python*/site-packages')
    script = installed / 'lib' / 'surgseg_ros' / words[0]
    environment = {**os.environ, 'PYTHONPATH': str(packages)}
    command = [sys.executable, script, *words[1:], 'none.json', 'none.json']
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("compare: 'none.json' cannot be read")


def test_an_installed_package_rejects_options_that_need_a_checkout(
    installed: Path, tmp_path: Path
) -> None:
    (packages,) = installed.glob('lib/python*/site-packages')
    words = ['--json', tmp_path / 'latency.json', '--end-to-end']
    run = subprocess.run(
        [sys.executable, installed / 'lib' / 'surgseg_ros' / 'benchmark', *words],
        env={**os.environ, 'PYTHONPATH': str(packages)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith('benchmark: --end-to-end needs tools.end_to_end')
    assert 'run it from a checkout' in line
    assert not list(tmp_path.iterdir())


def test_an_installed_package_finds_the_default_model(installed: Path, tmp_path: Path) -> None:
    (packages,) = installed.glob('lib/python*/site-packages')
    script = 'from surgseg_ros.core.model_folder import find_model; print(find_model("default"))'
    run = subprocess.run(
        [sys.executable, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(packages)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(run.stdout.strip()) == installed / 'share/surgseg_ros/models/default'


def test_all_shared_files_are_installed(installed: Path) -> None:
    share = installed / 'share' / 'surgseg_ros'
    there = {str(path.relative_to(share)) for path in share.rglob('*') if path.is_file()}
    assert there == {'package.xml', *files_in(ROOT, SHARED)}
    index = installed / 'share' / 'ament_index' / 'resource_index' / 'packages'
    assert [path.name for path in index.iterdir()] == ['surgseg_ros']


def test_code_message_files_and_templates_are_installed(installed: Path) -> None:
    (package,) = installed.glob('lib/python*/site-packages/surgseg_ros')
    expected = files_in(ROOT, ['surgseg_ros'])
    assert files_in(package.parent, ['surgseg_ros']) == expected
    assert any(name.endswith('LabelInfo.msg') for name in expected)
    assert any(name.endswith('base.html.j2') for name in expected)
