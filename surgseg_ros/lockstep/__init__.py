# SPDX-License-Identifier: Apache-2.0
"""Evaluates bags frame by frame, without ROS."""
