# SPDX-License-Identifier: Apache-2.0
"""Evaluation of bags, frame by frame, without ROS running."""

from surgseg_ros.core.threads import limit_spinning

limit_spinning()
