# SPDX-License-Identifier: Apache-2.0
"""Data sets, synthetic scenes and the training entry point."""

from surgseg_ros.core.bounds import bound_pictures

bound_pictures()
