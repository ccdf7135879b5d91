# SPDX-License-Identifier: Apache-2.0
"""
Where the parts of a data set lie.

Some file systems take `RGB` and `rgb` for the same name, and data sets come from there. So names
are found however they are capitalized; two that differ in nothing else are refused.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

VIDEO_FILE: Final = 'video_left.avi'
"""A video that is not unpacked, beside `segmentation/`."""

PICTURE_FOLDERS: Final = ('rgb', 'frames')
"""Where an unpacked video's frames may lie, beside `segmentation/`; the first that has it wins."""

PICTURE_SUFFIXES: Final = ('.png', '.jpg', '.jpeg')

MASK_FOLDER: Final = 'segmentation'
MASK_SUFFIX: Final = '.png'

_VIDEO_PREFIX: Final = 'video_'

# Nine digits are the frame's index. Fewer are somebody's own count, whose frames are others.
_PICTURE_NAME: Final = re.compile(r'_?(\d{9})')


def find_videos(root: Path) -> list[Path]:
    """
    Find the folders of a data set's videos.

    :param root: the data set.
    :return: its folders `video_*`, sorted; none where it is no folder.
    :raises FrameError: if two names differ in capitals alone.
    """
    named = [x for x in _inside(root) if x.name.lower().startswith(_VIDEO_PREFIX) and x.is_dir()]
    return sorted(_once(named), key=lambda path: official_name(path.name))


def official_name(name: str) -> str:
    """
    Name a video as the data set does.

    :param name: of its folder or file, without an ending.
    :return: the same with the prefix `video_`.
    """
    if name.lower().startswith(_VIDEO_PREFIX):
        return _VIDEO_PREFIX + name[len(_VIDEO_PREFIX) :]
    return _VIDEO_PREFIX + name


def find_video_file(video: Path) -> Path | None:
    """
    Find the file of a video that is not unpacked.

    :param video: its folder.
    :return: the file; None where there is none.
    :raises FrameError: if two names differ in capitals alone.
    """
    return _child(video, VIDEO_FILE)


def find_masks(video: Path) -> list[Path]:
    """
    Find the masks of a video.

    :param video: its folder.
    :return: the PNG files in its folder `segmentation`, sorted by name.
    :raises FrameError: if two names differ in capitals alone.
    """
    folder = _child(video, MASK_FOLDER)
    return [] if folder is None else sorted(_files(folder, [MASK_SUFFIX]))


def find_pictures(video: Path) -> dict[int, Path]:
    """
    Find the frames of an unpacked video.

    :param video: folder of the video.
    :return: index of the frame to its file, sorted.
    :raises FrameError: if two names differ in capitals alone.
    """
    found: dict[int, Path] = {}
    for name in reversed(PICTURE_FOLDERS):
        folder = _child(video, name)
        files = [] if folder is None else _files(folder, PICTURE_SUFFIXES)
        for suffix in reversed(PICTURE_SUFFIXES):
            for path in files:
                match = _PICTURE_NAME.fullmatch(path.stem)
                if match and path.suffix.lower() == suffix:
                    found[int(match[1])] = path
    return dict(sorted(found.items()))


def has_pictures(video: Path) -> bool:
    """
    Tell whether a folder is that of a video.

    :param video: the folder.
    :return: whether there are frames in it, unpacked or not.
    :raises FrameError: if two names differ in capitals alone.
    """
    return any(_child(video, name) is not None for name in (VIDEO_FILE, *PICTURE_FOLDERS))


def pictures_in(folder: Path) -> list[Path]:
    """
    Find the images in a folder.

    :param folder: it.
    :return: files that are images by their ending, sorted.
    :raises FrameError: if two names differ in capitals alone.
    """
    return sorted(_files(folder, PICTURE_SUFFIXES))


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return _once(path for path in _inside(folder) if path.suffix.lower() in suffixes)


def _child(folder: Path, name: str) -> Path | None:
    found = _once(path for path in _inside(folder) if path.name.lower() == name)
    return found[0] if found else None


def _inside(folder: Path) -> list[Path]:
    """List what is in a folder; nothing where it is none."""
    return list(folder.iterdir()) if folder.is_dir() else []


def _once(paths: Iterable[Path]) -> list[Path]:
    """Refuse two names that are the same elsewhere: nobody knows which of them is meant."""
    by_name: dict[str, Path] = {}
    for path in sorted(paths):
        other = by_name.setdefault(path.name.lower(), path)
        if other is not path:
            raise FrameError(
                f'{other} and {path.name}: the names differ in capitals alone, so it is not '
                'clear which is meant; remove one of them'
            )
    return list(by_name.values())


class FrameError(ValueError):
    """An image or video that cannot be used; the message names it, and a remedy."""
