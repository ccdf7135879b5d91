# SPDX-License-Identifier: Apache-2.0
"""Data sets and the training entry point."""

from surgseg_ros.core.limits import limit_image_size

limit_image_size()
