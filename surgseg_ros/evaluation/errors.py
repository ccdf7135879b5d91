# SPDX-License-Identifier: Apache-2.0
"""The error that pictures and videos share."""


class FrameError(ValueError):
    """A picture or video that can't be used; the message names it, and a remedy."""
