# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes; the only room that knows rclpy."""

from surgseg_ros.core.threads import share_cores

share_cores()
