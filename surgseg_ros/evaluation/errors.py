# SPDX-License-Identifier: Apache-2.0
"""The error that images and videos share."""


class FrameError(ValueError):
    """An image or video that cannot be used; the message names it, and a remedy."""
