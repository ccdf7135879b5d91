# SPDX-License-Identifier: Apache-2.0
"""Synthetic endoscopic scenes; masks are exact, since they are drawn with the same shapes."""

from surgseg_ros.synthetic.scene import MIN_SIDE_PX, Frame, Scene

__all__ = ['MIN_SIDE_PX', 'Frame', 'Scene']
