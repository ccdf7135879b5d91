# SPDX-License-Identifier: Apache-2.0
"""The contents of the README are correct."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
MAX_WORDS = 500
LARGEST_IMAGE_BYTES = 2_000_000


def example(page: str) -> str:
    """Return the first Python code of a page."""
    return re.search(r'```python\n(.*?)```', page, re.DOTALL).group(1)


def test_the_readme_is_short() -> None:
    words = [word for word in README.split() if any(map(str.isalnum, word))]
    assert len(words) < MAX_WORDS  # without the rules of tables


def test_the_image_exists_and_is_small() -> None:
    (path,) = re.findall(r'!\[[^]]+\]\(([^)]+)\)', README)
    assert 0 < (ROOT / path).stat().st_size < LARGEST_IMAGE_BYTES


def test_every_output_topic_is_listed() -> None:
    outputs = pytest.importorskip('surgseg_ros.node.outputs', reason='needs rclpy')
    listed = set(re.findall(r'^\| out `([\w/]+)` \|', README, re.MULTILINE))
    assert listed == {*outputs.RESULTS, 'detections_3d', 'label_info', 'status', '/diagnostics'}
    page = (ROOT / 'docs' / 'nodes.md').read_text()
    section = page.split('### Published topics')[1].split('\n### ')[0]
    described = set(re.findall(r'^\| `([\w/]+)` \| \w+_msgs/', section, re.MULTILINE))
    assert described == listed


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'models').symlink_to(ROOT / 'models')
    monkeypatch.chdir(tmp_path)
    grey = np.random.default_rng(0).integers(0, 256, (9, 16), dtype=np.uint8)
    frame = cv2.applyColorMap(cv2.resize(grey, (320, 180)), cv2.COLORMAP_HOT)
    cv2.imwrite('frame.png', frame)
    names: dict[str, object] = {}
    exec(example(README), names)
    assert cv2.imread('overlay.png').shape == frame.shape
    assert len(capsys.readouterr().out.splitlines()) == len(names['result'].instruments)


def test_commands_refer_to_existing_verbs_and_files() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    for target in re.findall(r'^    make (\w+)', README, re.MULTILINE):
        assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
    for launch_file in re.findall(r'(\w+\.launch\.py)', README):
        assert (ROOT / 'launch' / launch_file).is_file(), launch_file
