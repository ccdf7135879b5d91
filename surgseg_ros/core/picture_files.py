# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files: held against bounds before native code decodes them, and only if whole."""

import struct
from typing import Final, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from surgseg_ros.core import jpeg_stream
from surgseg_ros.core.jpeg_stream import JpegError, read_stream
from surgseg_ros.core.limits import MAX_PIXELS, TOO_LARGE, refusal

MAX_CHUNKS: Final = 100_000
"""In a PNG file; writers put 8 kB or more into each, and every one costs time."""

_PNG_START: Final = b'\x89PNG\r\n\x1a\n'
_PNG_PICTURE: Final = frozenset({b'IHDR', b'PLTE', b'IDAT', b'IEND'})
_PNG_ANIMATION: Final = frozenset({b'acTL', b'fcTL', b'fdAT'})
_PNG_COMPONENTS: Final = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""By colour type; palettes hold colours, and transparency is left out."""


class PictureFileError(ValueError):
    """
    A file that no image can be made of.

    :param text: what is wrong, without a remedy: that depends on where the file comes from.
    :param kind: 'unreadable' as JPEG or PNG, 'cut off', 'damaged', or 'refused' though others
        may read it.
    """

    def __init__(self, text: str, kind: str) -> None:
        """Keep the kind beside the text."""
        super().__init__(text)
        self.kind = kind


class PictureFile(NamedTuple):
    """
    A file that may be decoded.

    :param data: what to decode.
    :param height: in pixels, as its header says.
    :param width: in pixels, as its header says.
    :param is_grey: whether it holds brightness alone.
    """

    data: bytes
    height: int
    width: int
    is_grey: bool


class DecodedPicture(NamedTuple):
    """
    The image in a file.

    :param rgb: (H, W, 3) uint8 RGB.
    :param is_checked: False for a JPEG whose coded data nothing here checks for damage, since its
        chroma subsampling is not one of the common ones.
    """

    rgb: NDArray[np.uint8]
    is_checked: bool


class _UncommonSubsamplingError(PictureFileError):
    """What TurboJPEG's interface to libjpeg-turbo does not decode."""


def is_picture_file(data: bytes) -> bool:
    """
    Tell whether a file is for this module, by its first bytes.

    :param data: the file.
    :return: True for JPEG and PNG.
    """
    return data.startswith((_PNG_START, jpeg_stream.START))


def check_file(data: bytes) -> PictureFile:
    """
    Check that a file is a complete JPEG or PNG and within bounds; nothing is decoded.

    What is no part of the image (text, profiles, times) is not handed on: packed, it can be a
    thousand times as large as the file.

    :param data: the file.
    :return: what to decode, and its size.
    :raises PictureFileError: if it is neither, incomplete, or of a kind that no camera sends.
    """
    if data.startswith(_PNG_START):
        return _check_png(data)
    if not data.startswith(jpeg_stream.START):
        raise PictureFileError(f'{_said(data)} are no readable JPEG or PNG', 'unreadable')
    try:
        stream = read_stream(data)
    except JpegError as error:
        raise PictureFileError(str(error), error.kind) from error
    return PictureFile(stream.data, stream.height, stream.width, stream.components == 1)


def decode_rgb(file: PictureFile) -> DecodedPicture:
    """
    Decode an image; an orientation noted in the file is not followed.

    :param file: what `check_file` returned.
    :return: the image; of 16 bits the high byte, without transparency.
    :raises PictureFileError: if its data is damaged.
    """
    is_checked = True
    if file.data.startswith(jpeg_stream.START):
        try:
            return DecodedPicture(_decode_jpeg(file, 'RGB'), is_checked)
        except _UncommonSubsamplingError:
            is_checked = False
    bgr = _decode_by_opencv(file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr.shape != (file.height, file.width, 3):
        raise _of_another_size(file)
    return DecodedPicture(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), is_checked)


def decode_grey(file: PictureFile) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """
    Decode the samples of a grey file as they are: those of a mask, or of a sensor's mosaic.

    :param file: what `check_file` returned, with `is_grey`.
    :return: (H, W) of uint8, or of uint16 from a PNG of 16 bits.
    :raises PictureFileError: if its data is damaged, or it holds transparency too.
    """
    if file.data.startswith(jpeg_stream.START):
        return _decode_jpeg(file, 'GRAY')[..., 0]
    samples = _decode_by_opencv(file, cv2.IMREAD_UNCHANGED)
    if samples.shape != (file.height, file.width):
        raise _of_another_size(file)
    return samples


def _decode_jpeg(file: PictureFile, colors: str) -> NDArray[np.uint8]:
    """Have libjpeg-turbo decode it; in strict mode whatever it would warn of is an error."""
    if file.height * file.width > MAX_PIXELS:
        text = f'{len(file.data)} bytes of JPEG say that they have more than {MAX_PIXELS} pixels'
        raise PictureFileError(text, 'refused')
    try:
        image = simplejpeg.decode_jpeg(file.data, colors, strict=True)
    except ValueError as error:
        if 'subsampling' in str(error):
            text = f'a JPEG file of an uncommon chroma subsampling ({error})'
            raise _UncommonSubsamplingError(text, 'refused') from error
        text = f'{len(file.data)} bytes of a JPEG are damaged ({error})'
        raise PictureFileError(text, 'damaged') from error
    if image.shape[:2] != (file.height, file.width):
        raise _of_another_size(file)
    return np.asarray(image)


def _decode_by_opencv(file: PictureFile, flags: int) -> NDArray[np.uint8]:
    """Have OpenCV decode it; of a PNG its libpng compares the checksums."""
    if file.height * file.width > MAX_PIXELS:
        raise PictureFileError(TOO_LARGE, 'refused')
    try:
        image = cv2.imdecode(np.frombuffer(file.data, np.uint8), flags)
    except cv2.error as error:
        raise PictureFileError(refusal(error), 'refused') from error
    if image is None:
        raise _of_another_size(file)
    return np.asarray(image)


def _check_png(data: bytes) -> PictureFile:
    """Walk over the chunks: a false length makes the decoder ask for gigabytes."""
    parts, place = [_PNG_START], len(_PNG_START)
    names: list[bytes] = []
    while len(names) < MAX_CHUNKS and b'IEND' not in names[-1:]:
        if place + 12 > len(data):
            raise _cut_off(data)
        length, name = struct.unpack_from('>I4s', data, place)
        end = place + 12 + length
        if end > len(data):
            raise _cut_off(data)
        if name in _PNG_PICTURE:
            parts.append(data[place:end])
        names.append(name)
        place = end
    if names[0] != b'IHDR' or names.count(b'IHDR') > 1 or len(parts[1]) != 25:
        raise PictureFileError(f'{_said(data)} are no readable PNG', 'unreadable')
    if len(names) == MAX_CHUNKS:
        raise PictureFileError(f'a PNG file of more than {MAX_CHUNKS} chunks', 'refused')
    if animation := _PNG_ANIMATION.intersection(names):
        text = f'an animated PNG file, with {min(animation).decode()}'
        raise PictureFileError(text, 'refused')
    width, height, _, color = struct.unpack_from('>IIBB', data, 16)
    whole = len(parts) == len(names) + 1
    is_grey = _PNG_COMPONENTS.get(color) == 1
    return PictureFile(data if whole else b''.join(parts), height, width, is_grey)


def _said(data: bytes) -> str:
    return f'{len(data)} bytes that begin with {data[:8]!r}'


def _cut_off(data: bytes) -> PictureFileError:
    return PictureFileError(f'{_said(data)} lack the end of the image', 'cut off')


def _of_another_size(file: PictureFile) -> PictureFileError:
    text = f'{len(file.data)} bytes do not decode to the {file.width}x{file.height}'
    return PictureFileError(f'{text} that their header says', 'damaged')
