# SPDX-License-Identifier: Apache-2.0
"""What is said of a message that no image can be made of, or none to be trusted."""

from typing import NamedTuple

from surgseg_ros.core.reasons import ReasonCode


class ImageError(ValueError):
    """
    An image message that no image can be made of.

    :param text: what is wrong, and the remedy.
    :param cause: a short name of the kind of fault, to count by and to warn once by.
    """

    def __init__(self, text: str, cause: str) -> None:
        """Keep the cause beside the text."""
        super().__init__(text)
        self.cause = cause


class ImageWarning(NamedTuple):
    """
    Why an image that could be read is not to be trusted.

    :param code: the kind of fault, to count by and to warn once by.
    :param text: what is wrong, and the remedy.
    """

    code: ReasonCode
    text: str
