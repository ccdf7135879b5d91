# SPDX-License-Identifier: Apache-2.0
"""How large an image may be; light to import."""

import os
from typing import Final

MAX_PIXELS: Final = 100_000_000
"""Of an image from outside: twelve times 4K."""

TOO_LARGE: Final = f'says that it has more than {MAX_PIXELS} pixels, or a side that is too long'
"""What is wrong with the file of a larger one."""


def limit_image_size() -> None:
    """
    Have OpenCV refuse files of larger images; call it before `import cv2`.

    A file of a hundred bytes can claim a billion pixels. JPEG and PNG are refused by their headers
    in any case; this is for the other formats that `predict` and the like accept. OpenCV reads the
    variable once, when it is loaded. What the environment says stays.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))


def refusal(error: Exception) -> str:
    """
    Tell people why OpenCV refuses a file.

    :param error: that it raised.
    :return: a sentence without an end.
    """
    if 'IMAGE' in str(error) and 'MAX' in str(error):
        return TOO_LARGE
    return f'is refused by the decoder: {error}'
