# SPDX-License-Identifier: Apache-2.0
"""How large an image may be; light to import."""

import os
from typing import Final

MAX_PIXELS: Final = 100_000_000
"""Of an image from outside: twelve times 4K."""


def limit_image_size() -> None:
    """
    Have OpenCV refuse files of larger images before it decodes them; before it is imported.

    A PNG of a hundred bytes can say that it has a billion pixels. What the environment says stays.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))


def refusal(error: Exception) -> str:
    """
    Tell people why OpenCV refuses a file.

    :param error: that it raised.
    :return: a sentence without an end.
    """
    if 'IMAGE' in str(error) and 'MAX' in str(error):
        return f'says that it has more than {MAX_PIXELS} pixels, or a side that is too long'
    return f'is refused by the decoder: {error}'
