# SPDX-License-Identifier: Apache-2.0
"""Message types, conversions between messages and arrays, and CDR, without rclpy."""
