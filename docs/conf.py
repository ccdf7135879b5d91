# SPDX-License-Identifier: Apache-2.0
"""Sphinx's settings; `make docs` builds the site from a checkout, rosdoc2 from a workspace."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# rosdoc2 executes this file in a folder of its own, into which it has copied all of docs/.
HERE = Path(__file__).resolve().parent
PACKAGE_XML = HERE.parent / 'package.xml'
sys.path.insert(0, str(HERE / 'extensions'))
if PACKAGE_XML.exists():
    sys.path.insert(0, str(HERE.parent))
    release = ElementTree.parse(PACKAGE_XML).getroot().findtext('version')
else:
    import surgseg_ros

    release = surgseg_ros.__version__

project = 'surgseg_ros'
author = 'surgseg_ros maintainers'
copyright = author  # noqa: A001  (the name that Sphinx reads)
version = release

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'parameters', 'settings', 'numeric_columns']
default_role = 'code'  # `name` in docstrings is code
exclude_patterns = ['_build', 'extensions']

myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 3
smartquotes_action = 'D'  # dashes alone: quotes and dots are values in the tables of parameters
suppress_warnings = ['myst.header']  # a page may begin anywhere in another's outline: CONTRIBUTING

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True

html_theme = 'furo'
html_title = f'surgseg_ros {release}'
html_static_path = ['static']
html_css_files = ['site.css']
html_show_copyright = False
html_copy_source = False

rosdoc2_settings = {'enable_intersphinx': True, 'allow_other_extensions': True}

_HEAVY = ('cv2', 'numpy', 'safetensors', 'segmentation_models_pytorch', 'torch')


def _mock_missing(app: Any, config: Any) -> None:
    """Let a machine without PyTorch, such as ROS's build farm, build the Python API's page."""
    missing = [name for name in _HEAVY if find_spec(name) is None]
    config.autodoc_mock_imports = [*config.autodoc_mock_imports, *missing]


def setup(app: Any) -> None:
    """Register what is decided once all settings are known."""
    app.connect('config-inited', _mock_missing)
