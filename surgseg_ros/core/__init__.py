# SPDX-License-Identifier: Apache-2.0
"""The segmentation itself: labels, models, network, detections; neither ROS nor training."""
