# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes; the only room that knows rclpy."""
