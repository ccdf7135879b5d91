# SPDX-License-Identifier: Apache-2.0
"""Evaluation of bags, frame by frame, without ROS running."""

from surgseg_ros.core.threads import share_cores

share_cores()
