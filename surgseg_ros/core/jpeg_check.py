# SPDX-License-Identifier: Apache-2.0
"""Whether the coded data of a JPEG can be read from its beginning to its end."""

import simplejpeg


def is_sound(data: bytes) -> bool:
    """
    Read all code words of a JPEG, without making its image.

    :param data: the file; anything may follow the end of the image.
    :return: False if libjpeg-turbo would warn of something: data that end too soon or too late,
        words of no code, restart markers out of order. True also for chroma subsampling that it
        does not know.
    """
    if not data.startswith(b'\xff\xd8'):
        return False
    try:
        # An eighth of the size needs every code word, and little else.
        simplejpeg.decode_jpeg(
            data, 'GRAY', fastdct=True, min_height=1, min_width=1, min_factor=8, strict=True
        )
    except ValueError as error:
        return 'subsampling' in str(error)
    return True
