# SPDX-License-Identifier: Apache-2.0
"""Evaluation of bags, frame by frame, without ROS running."""
