# SPDX-License-Identifier: Apache-2.0
"""Maximum size of an image; light to import."""

import os
from typing import Final

MAX_PIXELS: Final = 100_000_000
"""Maximum of an image from outside: twelve times 4K."""

TOO_LARGE: Final = f'says that it has more than {MAX_PIXELS} pixels, or a side that is too long'
"""Error text for a larger image."""


def limit_image_size() -> None:
    """
    Make OpenCV reject files of larger images; call it before `import cv2`.

    A file of a hundred bytes can claim a billion pixels. JPEG and PNG are rejected by their
    headers in any case; this is for the other formats that `predict` and the like accept. OpenCV
    reads the variable once, when it is loaded. A value that is already set is kept.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))


def refusal(error: Exception) -> str:
    """
    Explain why OpenCV rejects a file.

    :param error: raised by OpenCV.
    :return: a sentence without subject and full stop.
    """
    if 'IMAGE' in str(error) and 'MAX' in str(error):
        return TOO_LARGE
    return f'is refused by the decoder: {error}'
