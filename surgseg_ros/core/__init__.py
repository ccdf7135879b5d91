# SPDX-License-Identifier: Apache-2.0
"""The segmentation itself: labels, models, network, detections. Uses neither ROS nor training."""
