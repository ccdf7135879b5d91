# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes; which alone make use of rclpy, but for the processes of the benchmark."""
