# SPDX-License-Identifier: Apache-2.0
"""Networks in the form of other runtimes, held against the original."""

from surgseg_ros.core.limits import limit_image_size

limit_image_size()
