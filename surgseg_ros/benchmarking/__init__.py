# SPDX-License-Identifier: Apache-2.0
"""Times of a frame by stage in one process, and the display of measurements."""
