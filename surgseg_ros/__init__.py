# SPDX-License-Identifier: Apache-2.0
"""Segmentation of surgical instruments in endoscope images, as a ROS 2 package."""
