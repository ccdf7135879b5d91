# SPDX-License-Identifier: Apache-2.0
"""What ROS messages look like from inside: message types, conversions, CDR; no rclpy."""
