# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes. Besides this package, only the processes of the benchmark use rclpy."""
