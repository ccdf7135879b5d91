# SPDX-License-Identifier: Apache-2.0
"""
The layout of a data set: its videos, frames and masks.

Data sets also come from file systems on which `RGB` and `rgb` are the same name. So names are
compared case-insensitively; two names that differ only in case are rejected.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from surgseg_ros.core.segmentation import CAMERAS

VIDEO_FILE: Final = 'video_left.avi'
"""A video file that is not unpacked, beside `segmentation/`."""

IMAGE_FOLDERS: Final = ('rgb', 'frames')
"""Possible folders of the frames of an unpacked video, beside `segmentation/`, by priority."""

IMAGE_SUFFIXES: Final = ('.png', '.jpg', '.jpeg')

DRAWN_FILE: Final = 'synthetic.json'
"""File beside `segmentation/` if `synthesize` drew the video; names the scene."""

MASK_FOLDER: Final = 'segmentation'
MASK_SUFFIX: Final = '.png'

LABELLED_FOLDERS: Final = ('images', 'masks')
"""Folders of a set of labelled images that are not frames of videos."""

_NAMED: Final = 20
"""Maximum number of files that a message lists; the others are counted."""

_VIDEO_PREFIX: Final = 'video_'

IMAGE_NAME: Final = re.compile(r'_?(\d{9})')
"""
File name of a frame without suffix: nine digits are the index of the frame.

Names with fewer digits are numbers of the user's own, which count other frames.
"""


def find_videos(root: Path) -> list[Path]:
    """
    Find the folders of a data set's videos.

    :param root: the data set.
    :return: its folders `video_*`, sorted; none if it is not a folder.
    :raises FrameError: if two names differ only in case.
    """
    named = [x for x in _inside(root) if x.name.lower().startswith(_VIDEO_PREFIX) and x.is_dir()]
    return sorted(_once(named), key=lambda path: official_name(path.name))


def official_name(name: str) -> str:
    """
    Return the official name of a video in a data set.

    :param name: name of its folder or file, without suffix.
    :return: the name with the prefix `video_`.
    """
    if name.lower().startswith(_VIDEO_PREFIX):
        return _VIDEO_PREFIX + name[len(_VIDEO_PREFIX) :]
    return _VIDEO_PREFIX + name


def find_views(root: Path) -> dict[str, Path]:
    """
    Find the folders that contain the frames of a data set's videos.

    :param root: the data set.
    :return: folders by name, sorted: the video's folder as `video_01`; for a stereo video, which
        has neither frames nor masks beside `left/` and `right/`, these folders as `video_01/left`
        and `video_01/right`.
    :raises FrameError: if two names differ only in case.
    """
    views = {}
    for video in find_videos(root):
        name, cameras = official_name(video.name), find_cameras(video)
        views.update(
            {f'{name}/{camera}': path for camera, path in cameras.items()} or {name: video}
        )
    return views


def find_cameras(video: Path) -> dict[str, Path]:
    """
    Find the folders of the cameras of a stereo video.

    :param video: its folder.
    :return: folders by name in CAMERAS; empty if it is not a stereo video.
    :raises FrameError: if two names differ only in case.
    """
    cameras = {name: _child(video, name) for name in CAMERAS}
    found = {name: path for name, path in cameras.items() if path is not None and path.is_dir()}
    is_stereo = len(found) == len(CAMERAS) and not has_images(video) and not find_masks(video)
    return found if is_stereo else {}


def find_video_file(video: Path) -> Path | None:
    """
    Find the file of a video that is not unpacked.

    :param video: its folder.
    :return: the file; None if there is none.
    :raises FrameError: if two names differ only in case.
    """
    return _child(video, VIDEO_FILE)


def find_masks(video: Path, name: str = MASK_FOLDER) -> list[Path]:
    """
    Find the masks of a video.

    :param video: its folder.
    :param name: name of the folder of masks in it.
    :return: the PNG files in that folder, sorted by name.
    :raises FrameError: if two names differ only in case.
    """
    folder = _child(video, name)
    return [] if folder is None else sorted(_files(folder, [MASK_SUFFIX]))


def masks_by_number(video: Path) -> dict[int, Path]:
    """
    Find the masks of a video by the numbers of their frames.

    :param video: its folder.
    :return: masks by frame index, sorted by name.
    :raises FrameError: if a name is not a number, or two are the same number.
    """
    masks: dict[int, Path] = {}
    for mask in find_masks(video):
        if not mask.stem.isdecimal():
            raise FrameError(f'{mask}: is not named by the number of its frame')
        if (other := masks.setdefault(int(mask.stem), mask)) is not mask:
            raise FrameError(f'{mask}: is of the same frame as {other.name}; remove one')
    return masks


def find_images(video: Path) -> dict[int, Path]:
    """
    Find the frames of an unpacked video.

    :param video: folder of the video.
    :return: files by frame index, sorted.
    :raises FrameError: if two names differ only in case.
    """
    found: dict[int, Path] = {}
    for name in reversed(IMAGE_FOLDERS):
        folder = _child(video, name)
        files = [] if folder is None else _files(folder, IMAGE_SUFFIXES)
        for suffix in reversed(IMAGE_SUFFIXES):
            for path in files:
                match = IMAGE_NAME.fullmatch(path.stem)
                if match and path.suffix.lower() == suffix:
                    found[int(match[1])] = path
    return dict(sorted(found.items()))


def image_of(mask: Path, images: Mapping[int, Path]) -> Path:
    """
    Return the image that has the number of a mask.

    :param mask: the file of the mask.
    :param images: the images of its video, as `find_images` returns them.
    :return: the file of the image.
    :raises FrameError: if there is none.
    """
    found = images.get(int(mask.stem)) if mask.stem.isdecimal() else None
    if found is None:
        raise FrameError(
            f'{mask}: roi_mode auto needs its image, of the same number, in '
            f'{" or ".join(IMAGE_FOLDERS)} beside {MASK_FOLDER}: add the images, name both by '
            'numbers, or leave roi_mode out'
        )
    return found


def has_images(video: Path) -> bool:
    """
    Return whether a folder is that of a video.

    :param video: the folder.
    :return: whether it contains frames, unpacked or not.
    :raises FrameError: if two names differ only in case.
    """
    return any(_child(video, name) is not None for name in (VIDEO_FILE, *IMAGE_FOLDERS))


def images_in(folder: Path) -> list[Path]:
    """
    Find the images in a folder.

    :param folder: the folder.
    :return: files that are images by their extension, sorted.
    :raises FrameError: if two names differ only in case.
    """
    return sorted(_files(folder, IMAGE_SUFFIXES))


class LabelledImage(NamedTuple):
    """An image of any format, and the mask with the same name."""

    image: Path
    mask: Path


def find_labelled(folder: Path) -> list[LabelledImage]:
    """
    Find the images of a set and their masks: files with the same name, apart from the suffix.

    :param folder: folder that contains `images/` and `masks/`.
    :return: the pairs, sorted by name; at least one.
    :raises FrameError: if a folder or file is missing, or two files have the same name.
    """
    folders = [_child(folder, name) for name in LABELLED_FOLDERS]
    if None in folders:
        name = LABELLED_FOLDERS[folders.index(None)]
        raise FrameError(
            f'{str(folder)!r} has no folder {name}/: give one that holds images/ and masks/'
        )
    images, masks = (_by_stem(path) for path in folders if path is not None)
    if not (images or masks):
        raise FrameError(f'{str(folder)!r} holds no labelled image: images/ and masks/ are empty')
    for kind, those, others in (
        ('images without a mask', images, masks),
        ('masks without an image', masks, images),
    ):
        if names := [those[stem].name for stem in sorted(those.keys() - others.keys())]:
            more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
            raise FrameError(
                f'{str(folder)!r} holds {kind} ({len(names)}): {", ".join(names[:_NAMED])}{more}; '
                'add what they lack, under the same name, or remove them'
            )
    return [LabelledImage(images[name], masks[name]) for name in sorted(images)]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by name without suffix, except for hidden files."""
    found: dict[str, Path] = {}
    for path in sorted(_inside(folder)):
        if path.name.startswith('.'):
            continue
        other = found.setdefault(path.stem.lower(), path)
        if other is not path:
            raise FrameError(
                f'{other} and {path.name}: the names differ only in ending or case, so it '
                'is not clear which is meant; remove one of them'
            )
    return found


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return _once(path for path in _inside(folder) if path.suffix.lower() in suffixes)


def _child(folder: Path, name: str) -> Path | None:
    found = _once(path for path in _inside(folder) if path.name.lower() == name)
    return found[0] if found else None


def _inside(folder: Path) -> list[Path]:
    """List the content of a folder; nothing if it is not a folder."""
    return list(folder.iterdir()) if folder.is_dir() else []


def _once(paths: Iterable[Path]) -> list[Path]:
    """Reject two names that other file systems cannot distinguish."""
    by_name: dict[str, Path] = {}
    for path in sorted(paths):
        other = by_name.setdefault(path.name.lower(), path)
        if other is not path:
            raise FrameError(
                f'{other} and {path.name}: the names differ only in case, so it is not '
                'clear which is meant; remove one of them'
            )
    return list(by_name.values())


class FrameError(ValueError):
    """An image or video that cannot be used; the message names it, and gives a remedy."""
