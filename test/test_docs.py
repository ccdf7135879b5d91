# SPDX-License-Identifier: Apache-2.0
"""The site builds without warnings, and its reference matches the code."""

import dataclasses
import html
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import surgseg_ros
from surgseg_ros.__main__ import VERBS
from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.crop_dataset import Augmentation

pytest.importorskip('sphinx', reason='needs Sphinx, which make setup installs')
pytest.importorskip('rcl_interfaces', reason='the table of parameters needs rcl_interfaces')

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(path.stem for path in DOCS.iterdir() if path.suffix in ('.md', '.rst'))


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as `make docs` does."""
    folder = tmp_path_factory.mktemp('site')
    options = ('-W', '--keep-going', '--quiet', '-b', 'html', '-d', folder / 'doctrees')
    command = [sys.executable, '-m', 'sphinx', *options, DOCS, folder / 'html']
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / 'html'


@pytest.fixture(scope='module')
def parameters() -> ModuleType:
    """Import the extension, which is not part of the package."""
    path = DOCS / 'extensions' / 'parameters.py'
    spec = importlib.util.spec_from_file_location('docs_parameters', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(site: Path, page: str) -> str:
    """Read a page without tags, with one space for any white space."""
    source = (site / f'{page}.html').read_text().split('<article', 1)[1]
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', source)).split())


def without_spaces(text: str) -> str:
    """Remove what a page may have around code and links."""
    return ''.join(text.split())


def test_the_same_flags_are_used_by_make() -> None:
    assert '-m sphinx -W --keep-going --quiet -b html docs' in (ROOT / 'Makefile').read_text()


def test_every_page_is_linked_from_the_first(site: Path) -> None:
    index = (site / 'index.html').read_text()
    assert [page for page in PAGES if f'href="{page}.html"' not in index] == ['index']


def test_every_parameter_is_on_the_page_as_the_node_declares_it(
    site: Path, parameters: ModuleType
) -> None:
    page = without_spaces(text_of(site, 'nodes'))
    for row in parameters.TABLE:
        name, kind, default, span, change, description = parameters.cells_of(row)
        texts = (name, kind, default, span, change, description)
        assert without_spaces(' '.join(texts)) in page, name


def test_numbers_in_tables_are_right_aligned(site: Path) -> None:
    page = (site / 'performance.html').read_text()
    assert '<td class="text-right"><p>13.2</p>' in page
    assert '<td class="text-right"><p>78, 81</p>' in page
    assert '<td><p>1920x1080</p>' in page


def test_every_setting_of_train_is_on_its_page(site: Path) -> None:
    page = without_spaces(text_of(site, 'training'))
    for kind, prefix in ((TrainConfig, ''), (Augmentation, 'augmentation.')):
        for setting in dataclasses.fields(kind):
            default = setting.default
            if setting.default_factory is not dataclasses.MISSING:
                default = setting.default_factory()
            if default is dataclasses.MISSING or default == '':
                default = '' if default else "''"
            elif not isinstance(default, str | Augmentation):
                default = json.dumps(default)
            if not isinstance(default, Augmentation):
                assert without_spaces(prefix + setting.name + default) in page, setting.name


def test_the_parameters_of_the_page_are_those_of_the_shipped_file(parameters: ModuleType) -> None:
    file = yaml.safe_load((ROOT / 'config' / 'segmenter.yaml').read_text())
    values = file['/**']['ros__parameters']
    gates = {f'gates.{gate}.{key}' for gate, pair in values.pop('gates').items() for key in pair}
    listed = {row.name for row in parameters.TABLE}
    assert listed == {*values, 'model', *gates}


@pytest.mark.parametrize(
    ('default', 'name'),
    [
        (True, 'boolean'),
        (3, 'integer'),
        (0.5, 'double'),
        ('', 'string'),
        ([0, 0], 'integer array'),
        (['image'], 'string array'),
    ],
)
def test_types_are_named_as_ros2_param_describe_does(
    parameters: ModuleType, default: object, name: str
) -> None:
    assert parameters.type_of(default) == name


def test_ranges_and_changes_are_written_out(parameters: ModuleType) -> None:
    rows = {row.name: row for row in parameters.TABLE}
    assert parameters.range_of(rows['stale_after_ms']) == '10 to 600,000'
    assert parameters.range_of(rows['min_confidence']) == '0 to 1'
    assert parameters.range_of(rows['image_transport']) == 'raw, compressed'
    assert parameters.range_of(rows['model']) == ''
    assert parameters.change_of(rows['stale_after_ms']) == 'live'
    assert parameters.change_of(rows['device']) == 'configure'
    assert parameters.change_of(rows['model']) == 'see text'


def test_public_names_are_on_the_page_of_the_python_api(site: Path) -> None:
    page = text_of(site, 'python_api')
    for name in set(surgseg_ros.__all__) - {'__version__'}:
        assert f'surgseg_ros. {name}' in page, name
    for method in ('load', 'segment', 'segment_all', 'warm_up'):
        assert f'{method} (' in page, method


def test_every_verb_is_listed() -> None:
    verbs = (DOCS / 'commands.md').read_text().split('\n## ')[0]
    assert sorted(re.findall(r'^\| `(\w+)` \|', verbs, re.MULTILINE)) == sorted(VERBS)


def test_rosdoc2_finds_the_site() -> None:
    named = re.search(r'<rosdoc2>(.*)</rosdoc2>', (ROOT / 'package.xml').read_text()).group(1)
    kind, settings = yaml.safe_load_all((ROOT / named).read_text())
    assert kind == {'type': 'rosdoc2 config', 'version': 1}
    (builder,) = settings['builders']
    assert (ROOT / builder['sphinx']['sphinx_sourcedir'] / 'conf.py').is_file()
