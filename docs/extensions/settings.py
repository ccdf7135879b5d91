# SPDX-License-Identifier: Apache-2.0
"""
The directive `settings`: all settings of `train`, from their dataclasses: no page can drift.

The modules are parsed and not imported, since a machine that builds the site may lack PyTorch.
"""

import ast
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from parameters import table
from sphinx.application import Sphinx

from surgseg_ros.core.parameters import AUTO

HEADINGS = ('setting', 'default', 'description')
WIDTHS = (22, 14, 64)
DEFAULTS = {'AUTO': AUTO, 'field(default_factory=dict)': '{}'}


def settings_of(module: str, name: str, prefix: str = '') -> Iterator[tuple[str, str, str]]:
    """
    List the fields of a dataclass.

    :param module: its module.
    :param name: its name.
    :param prefix: what precedes the names of its fields.
    :return: name, default as in YAML, and description of each field; a field whose default is
        another dataclass is left out.
    """
    tree = ast.parse(Path(str(find_spec(module).origin)).read_text())
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    docstring = ast.get_docstring(kind) or ''
    texts = dict(re.findall(r':param (\w+): (.+?)(?=\n:param|\Z)', docstring, re.DOTALL))
    for field in kind.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            key, default = field.target.id, default_of(field.value)
            if 'default_factory=' not in default:
                yield prefix + key, default, ' '.join(texts[key].split())


def default_of(value: ast.expr | None) -> str:
    """
    Write down a default as in YAML.

    :param value: of the field; None if it has none.
    :return: the text; empty for a setting that is required, and the code itself for a factory.
    """
    if value is None:
        return ''
    code = ast.unparse(value)
    if code in DEFAULTS or isinstance(value, ast.Call):
        return DEFAULTS.get(code, code)
    plain = ast.literal_eval(value)
    return (plain or "''") if isinstance(plain, str) else json.dumps(plain)


class SettingsTable(Directive):
    """Directive that inserts the table of settings."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        rows = [
            *settings_of('surgseg_ros.training.config', 'TrainConfig'),
            *settings_of('surgseg_ros.training.crop_dataset', 'Augmentation', 'augmentation.'),
        ]
        return [table(HEADINGS, WIDTHS, rows, code={0, 1})]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive('settings', SettingsTable)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
