# SPDX-License-Identifier: Apache-2.0
"""Puts the instruments of synthetic scenes over tissue that was rendered without instruments."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from surgseg_ros.core.files import new_folder
from surgseg_ros.core.labels import BACKGROUND
from surgseg_ros.evaluation.layout import DRAWN_FILE, IMAGE_FOLDERS, MASK_FOLDER

_EDGE_PX: Final = 0.7
"""Standard deviation in pixels by which the edges of the instruments are blurred."""

_NAME: Final = '000000000.png'


def paste(folder: Path, pairs: Iterable[tuple[Path, Path]]) -> Path:
    """
    Make a data set of videos with one image each, unless the folder exists.

    :param folder: folder of the videos.
    :param pairs: for each video, an image of tissue, and a folder of a video of the same size, of
        whose last image the instruments are taken.
    :return: the folder.
    :raises OSError: if it cannot be written.
    """
    if folder.exists():
        return folder
    with new_folder(folder) as unfinished:
        for number, (tissue, video) in enumerate(pairs, 1):
            _paste(unfinished / f'video_{number:03d}', tissue, video)
    return folder


def _paste(folder: Path, tissue: Path, video: Path) -> None:
    """Write an image and its mask; what has no class stays behind."""
    image, mask = (max(video.glob(f'{name}/*')) for name in (IMAGE_FOLDERS[0], MASK_FOLDER))
    labels = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    share = cv2.GaussianBlur((labels != BACKGROUND).astype(np.float32), (0, 0), _EDGE_PX)
    front, behind = cv2.imread(str(image)), cv2.imread(str(tissue))
    made = cv2.blendLinear(front, behind, share, 1 - share)
    for name, pixels in ((IMAGE_FOLDERS[0], made), (MASK_FOLDER, labels)):
        (folder / name).mkdir(parents=True)
        _, data = cv2.imencode('.png', pixels)
        (folder / name / _NAME).write_bytes(data.tobytes())
    (folder / DRAWN_FILE).write_text(json.dumps({'made_by': 'tools.default_model'}) + '\n')
