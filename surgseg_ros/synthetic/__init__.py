# SPDX-License-Identifier: Apache-2.0
"""Synthetic endoscopic scenes whose masks are exact, because image and mask are drawn alike."""

from surgseg_ros.synthetic.scene import LEAST_SIDE_PX, Frame, Scene

__all__ = ['LEAST_SIDE_PX', 'Frame', 'Scene']
