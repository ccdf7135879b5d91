# SPDX-License-Identifier: Apache-2.0
"""A broken cv_bridge is not used, even one that crashes the process."""

import sys

from surgseg_ros.messages.encodings import converter


def test_cv_bridge_is_used_only_if_it_works(monkeypatch, tmp_path):
    def chosen(body: str) -> str:
        (tmp_path / 'cv_bridge.py').write_text(body)
        return converter.__wrapped__().__name__

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    crash = 'import os, sys\nos.abort()'
    assert chosen(crash) == 'message_to_cvimage'
    works = (
        'import numpy as np\n'
        'class CvBridge:\n'
        '    def imgmsg_to_cv2(self, message, encoding):\n'
        '        return np.zeros((message.height, message.width, 3), np.uint8)\n'
    )
    assert chosen(works) == 'imgmsg_to_cv2'
    del sys.modules['cv_bridge']
