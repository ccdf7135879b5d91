# SPDX-License-Identifier: Apache-2.0
"""Which of two libraries a plain node converts images with, to compare ours with it."""

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

_CV_BRIDGE_TRIAL: Final = """
from types import SimpleNamespace as Message
from cv_bridge import CvBridge
grey = Message(height=2, width=2, encoding='mono8', is_bigendian=0, step=2, data=bytes(4))
assert CvBridge().imgmsg_to_cv2(grey, 'rgb8').shape == (2, 2, 3)
"""


@functools.cache
def converter() -> Callable[[Any, str], Any]:
    """
    Choose cv_bridge where it works, and rosbags-image elsewhere.

    :return: makes of an image message, with dense rows, and the name of an encoding an image.
    """
    convert: Callable[[Any, str], Any]
    if importlib.util.find_spec('cv_bridge') and _cv_bridge_works():
        convert = importlib.import_module('cv_bridge').CvBridge().imgmsg_to_cv2
    else:
        convert = importlib.import_module('rosbags.image').message_to_cvimage
    return convert


def _cv_bridge_works() -> bool:
    """Try cv_bridge in a process of its own: built for another NumPy, it can end the process."""
    trial = [sys.executable, '-c', _CV_BRIDGE_TRIAL]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0
