# SPDX-License-Identifier: Apache-2.0
"""What the README shows must be true."""

import re
from pathlib import Path

from surgseg_ros.__main__ import VERBS

README = (Path(__file__).resolve().parents[1] / 'README.md').read_text()


def test_every_verb_is_listed() -> None:
    listed = re.findall(r'^\| `(\w+)` \|', README.split('## Commands')[1], re.MULTILINE)
    assert sorted(listed) == sorted(VERBS)
