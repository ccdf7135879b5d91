# SPDX-License-Identifier: Apache-2.0
"""Metrics, the evaluator and its reports."""

from surgseg_ros.core.bounds import bound_pictures

bound_pictures()
