# SPDX-License-Identifier: Apache-2.0
"""Makes scenes, each a video of two shots, in a process that has bpy."""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.files import new_folder
from surgseg_ros.evaluation.layout import DRAWN_FILE, IMAGE_FOLDERS, MASK_FOLDER
from tools.path_tracing.exposure import expose
from tools.path_tracing.scene import draw_bare_shot, draw_shot
from tools.path_tracing.tissue import draw_bare_tissue, draw_tissue

SHOTS: Final = 2
"""Images of each scene: the tissue takes a fifth of the time, and its shots differ much."""

RATE_HZ: Final = 15.0
"""Nominal frame rate, as that of `synthesize`; the shots are independent."""

_DOMAIN: Final = 77
_BARE_DOMAIN: Final = 78
"""First number of all seeds, so that no other random numbers are the same."""


class Batch(NamedTuple):
    """
    Scenes for one process.

    :param output: folder of the data set.
    :param scenes: numbers of the scenes, which are their seeds.
    :param width_px: width of the images.
    :param samples: samples per pixel.
    :param threads: number of threads.
    :param bare: whether to render tissue without instruments.
    """

    output: Path
    scenes: tuple[int, ...]
    width_px: int
    samples: int
    threads: int
    bare: bool = False


def is_complete(output: Path, scene: int) -> bool:
    """
    Return whether a scene need not be rendered again.

    :param output: folder of the data set.
    :param scene: number of the scene.
    :return: whether its folder has the file that is written last.
    """
    return (video_folder(output, scene) / DRAWN_FILE).exists()


def video_folder(output: Path, scene: int) -> Path:
    """
    Return the folder of a scene's video.

    :param output: folder of the data set.
    :param scene: number of the scene.
    :return: the folder.
    """
    return output / f'video_{scene + 1:02d}'


def render_batch(batch: Batch) -> None:
    """
    Render scenes one after the other.

    :param batch: the scenes.
    :raises OSError: if they cannot be written.
    """
    _silence_stdout()
    cv2.setNumThreads(batch.threads)
    for scene in batch.scenes:
        write_scene(scene, batch)


def write_scene(scene: int, batch: Batch) -> None:
    """
    Render a scene into its folder, which appears when it is complete.

    :param scene: number of the scene.
    :param batch: output, size and quality.
    :raises OSError: if it cannot be written, or its folder exists and is not empty.
    """
    folder = video_folder(batch.output, scene)
    with suppress(FileNotFoundError):
        folder.rmdir()  # an empty folder would be filled in place
    for leftover in batch.output.glob(f'.{folder.name}.*'):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with new_folder(folder) as unfinished:
        render_scene(scene, batch, unfinished)


def render_scene(scene: int, batch: Batch, folder: Path) -> None:
    """
    Render a scene. Its random numbers depend on its number alone.

    :param scene: number of the scene.
    :param batch: size and quality.
    :param folder: gets images, masks and the file that names the scene.
    :raises OSError: if they cannot be written.
    """
    from tools.path_tracing.rendering import Quality, Renderer  # bpy prints, and takes a second

    domain = _BARE_DOMAIN if batch.bare else _DOMAIN
    draw, shoot = (draw_bare_tissue, draw_bare_shot) if batch.bare else (draw_tissue, draw_shot)
    tissue = draw(np.random.default_rng([domain, scene]))
    quality = Quality(batch.width_px, batch.samples, batch.threads)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # removed with it, if killed
        renderer = Renderer(tissue, quality, Path(scratch))
        for index in range(SHOTS):
            rng = np.random.default_rng([domain, scene, index])
            rendered = renderer.render(shoot(rng, tissue), SHOTS * scene + index)
            image = expose(rng, rendered.light)
            _write(folder / IMAGE_FOLDERS[0] / f'{index:09d}.png', image[..., ::-1])
            _write(folder / MASK_FOLDER / f'{index:09d}.png', rendered.mask)
    content = {'scene': scene, 'rate_hz': RATE_HZ, 'made_by': 'tools.path_tracing'}
    (folder / DRAWN_FILE).write_text(json.dumps(content) + '\n')


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a grey or BGR image as PNG."""
    path.parent.mkdir(exist_ok=True)
    _, data = cv2.imencode('.png', pixels)
    path.write_bytes(data.tobytes())


def _silence_stdout() -> None:
    """Discard what Blender prints for each image."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
