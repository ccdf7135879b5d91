# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes. Beside them, only the benchmark's processes know rclpy."""
