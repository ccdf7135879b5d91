# SPDX-License-Identifier: Apache-2.0
"""Metrics, the evaluator and its reports."""

from surgseg_ros.core.limits import limit_image_size

limit_image_size()
