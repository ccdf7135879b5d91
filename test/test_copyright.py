# SPDX-License-Identifier: Apache-2.0
"""
Every source file has the license of package.xml in its first lines.

ament_copyright is not used: it does not support SPDX lines, and requires a year and a full notice
in each file.
"""

from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('surgseg_ros', 'launch', 'test', 'tools', 'docker')
SUFFIXES = {'.py', '.sh'}


@pytest.mark.copyright
@pytest.mark.linter
def test_copyright() -> None:
    licence = ElementTree.parse(ROOT / 'package.xml').findtext('license')
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*')]
    sources = [ROOT / 'setup.py', *(path for path in paths if path.suffix in SUFFIXES)]
    assert len(sources) > 100
    wanted = f'# SPDX-License-Identifier: {licence}'
    texts = {path: path.read_text() for path in sources}
    assert not [str(p) for p, text in texts.items() if text and wanted not in text.split('\n')[:2]]
