# SPDX-License-Identifier: Apache-2.0
"""
Synthetic scenes, whose frames are drawn independently, and videos of them as a data set.

The videos are numbered images and masks, drawn in several processes.
"""

import math
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core import labels
from surgseg_ros.core.files import replacing
from surgseg_ros.core.image_files import encode_png
from surgseg_ros.core.instrument_files import (
    INSTANCES_FOLDER,
    INSTRUMENTS_FOLDER,
    ListedInstrument,
    instruments_to_json,
)
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.processes import ignore_terminal_signals, keep_freed, worker_pool
from surgseg_ros.core.segmentation import CAMERAS
from surgseg_ros.synthetic.camera import Camera, Depths, calibration_files, extra_columns, warp
from surgseg_ros.synthetic.drawing import Canvas, Item, Patch, View, defocused, visible
from surgseg_ros.synthetic.resting_objects import Catheter, Clamp, Distractor
from surgseg_ros.synthetic.suture import Needle, Thread
from surgseg_ros.synthetic.tissue import Tissue
from surgseg_ros.synthetic.tools import NeedleHolder, Suction, Tool
from surgseg_ros.synthetic.truth import TrueInstrument, Truth, true_geometry

MIN_SIDE_PX: Final = 64
"""In a smaller image, needles would not be visible."""

_TOOL_SHARES: Final = (0.03, 0.12, 0.52, 0.25, 0.08)
"""Probabilities of zero to four robotic tools in a scene."""

SCENES_PER_SEED: Final = 100_000
"""Number of scenes that are reserved for a seed, so that no two seeds share one."""

LAST_INDEX: Final = 999_999_999
"""Greatest number of a frame: names in the data set have nine digits."""

_BYTES_PER_PIXEL: Final = 450
"""Memory that drawing a scene takes; measured from 500 to 2000 pixels a side."""

_CHUNK: Final = 30
_MANY: Final = 4
"""With this many videos for each process, a process draws whole videos: a scene takes a second."""

_JPEG_QUALITY: Final = 92


@dataclass(frozen=True)
class Frame:
    """
    An image and its ground truth.

    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8, the class of each pixel.
    :param instances: (H, W) uint8, the number of the instrument of each pixel; 0 for none.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    instances: NDArray[np.uint8]


class Scene:
    """
    A synthetic endoscopic video. A frame depends only on the scene's parameters and its index.

    :param seed: scenes with different seeds are independent.
    :param size: (height, width) of the image in pixels; it only changes the scale of the scene.
    :param rate_hz: frames per second.
    :param touching: whether the scene has robotic tools that touch or cross in most frames.
    :param stereo: whether the second camera can be drawn, too.
    """

    def __init__(
        self,
        seed: int,
        size: tuple[int, int],
        rate_hz: float = 15.0,
        touching: bool = False,
        stereo: bool = False,
    ) -> None:
        if min(size) < MIN_SIDE_PX:
            raise ValueError(f'size {size!r} is too small: use at least {MIN_SIDE_PX} pixels')
        if not rate_hz > 0:
            raise ValueError(f'rate {rate_hz!r} must be above zero')
        self._seed = seed
        self._rate_hz = rate_hz
        self._touching = touching
        self._view = View(*size, extra_columns(size[0]) if stereo else 0)
        self._tissue = Tissue(self._rng(0), self._view)
        self._camera = Camera(self._rng(1), self._view)
        self._exposure_s = float(self._rng(2).uniform(0.2, 0.7)) / 25
        self._items = self._choose_objects(self._rng(3))
        self._depths = Depths(self._rng(16), self._items) if stereo else None
        held = [item.held for item in self._items if isinstance(item, Tool) and item.held]
        self._numbers = {item: number for number, item in enumerate([*self._items, *held], 1)}

    def frame(self, index: int, camera: int = 0) -> Frame:
        """
        Draw a frame.

        :param index: its number, from 0.
        :param camera: 0; in a stereo scene also 1, the camera to the right.
        :return: image and mask.
        """
        time_s = index / self._rate_hz
        shift = self._depths.tissue_shift(camera) if self._depths else 0.0
        canvas = Canvas(self._tissue.draw(time_s, shift))
        for item in self._items:
            patches = self._patches(item, time_s, camera)
            canvas.shadow(patches, (item.lift * 0.5, item.lift), 0.3 * item.lift + 0.004, 0.5)
            for patch in patches:
                canvas.paint(patch, self._number(item, patch))
            before = np.array(item.anchor(time_s - self._exposure_s))
            motion = (np.array(item.anchor(time_s)) - before) * self._view.height
            canvas.smear(patches, (float(motion[0]), float(motion[1])))
        noise = self._rng(4, index, camera) if camera else self._rng(4, index)
        image = self._camera.expose(canvas.image, time_s, noise)
        if self._camera.content_mask is not None:
            outside = self._camera.content_mask[..., 0] < 128
            canvas.mask[outside], canvas.instances[outside] = labels.BACKGROUND, 0
        return Frame(image, canvas.mask, canvas.instances)

    def _patches(self, item: Item, time_s: float, camera: int) -> list[Patch]:
        """Draw an object as seen by a camera."""
        view, sigma_px = self._view, item.defocus * self._view.height
        patches = [defocused(patch, sigma_px, view) for patch in item.draw(time_s)]
        if self._depths is None:
            return patches
        plane = self._depths.plane(item, time_s)
        return visible([warp(patch, plane, camera, view) for patch in patches])

    def truth(self, index: int, instances: NDArray[np.uint8]) -> tuple[TrueInstrument, ...]:
        """
        Return the ground truth of the visible instruments of a frame.

        :param index: the frame's number.
        :param instances: (H, W) uint8, those of the frame.
        :return: the instruments, sorted by number.
        """
        time_s = index / self._rate_hz
        seen = set(np.flatnonzero(np.bincount(instances.ravel())).tolist())
        found = []
        for item, number in self._numbers.items():
            truth = item.truth(time_s) if number in seen else None
            if truth is not None:
                geometry = true_geometry(truth, instances == number)
                keypoints = self._keypoints_3d(item, truth, time_s)
                found.append(TrueInstrument(number, truth.label, geometry, **keypoints))
        return tuple(found)

    def _keypoints_3d(self, item: Item, truth: Truth, time_s: float) -> dict[str, Any]:
        """Return 3-D tip and axis of an instrument that has both, in a stereo scene."""
        points = {kind: (position, angle) for kind, position, angle in truth.points}
        if self._depths is None or not {KeypointKind.TIP, KeypointKind.SHAFT_AXIS} <= set(points):
            return {}
        plane, view = self._depths.plane(item, time_s), self._view
        tip = plane.position_m(points[KeypointKind.TIP][0], view)
        axis = plane.direction(*points[KeypointKind.SHAFT_AXIS], view)
        return {'tip_m': tuple(tip.tolist()), 'axis': tuple(axis.tolist())}

    def _number(self, item: Item, patch: Patch) -> int:
        """Return the instrument number of a patch; an object held by a tool has its own number."""
        if patch.label == labels.BACKGROUND:
            return 0
        held = getattr(item, 'held', None)
        return self._numbers[held if held is not None and patch.label == labels.NEEDLE else item]

    def _rng(self, *stream: int) -> Generator:
        return np.random.default_rng([self._seed, *stream])

    def _choose_objects(self, rng: Generator) -> list[Item]:
        """Choose the objects of the scene, sorted by depth."""
        view, tissue = self._view, self._tissue
        has = {
            name: rng.random() < share
            for name, share in (
                ('needle', 0.75), ('thread', 0.66), ('suction', 0.3), ('holder', 0.26),
                ('clamp', 0.4), ('catheter', 0.4), ('distractor', 0.4),
            )
        }  # fmt: skip
        bearings = _bearings(self._rng(5))
        resting: list[Item] = []
        if has['catheter']:
            resting.append(Catheter(self._rng(6), view, tissue))
        if has['distractor']:
            count = int(rng.integers(1, 3))
            resting += [Distractor(self._rng(13, i), view, tissue) for i in range(count)]
        if has['clamp']:
            count = int(rng.integers(1, 6))
            resting += [Clamp(self._rng(7, i), view, tissue) for i in range(count)]
        tools = self._tools(int(rng.choice(5, p=_TOOL_SHARES)), bearings)
        needle = None
        if has['needle']:
            holder = tools[-1] if tools and rng.random() < 0.6 else None
            needle = Needle(self._rng(9), view, tissue, holder)
            if holder:
                holder.held = needle
            else:
                resting.append(needle)
        if has['thread']:
            resting.append(Thread(self._rng(10), view, tissue, needle))
            if rng.random() < 0.35:
                resting.append(Thread(self._rng(14), view, tissue, None))
        instruments: list[Item] = [*tools]
        if has['suction']:
            instruments.insert(0, Suction(self._rng(11), view, bearings[3]))
        if has['holder']:
            instruments.insert(0, NeedleHolder(self._rng(12), view, bearings[4]))
        return resting + instruments

    def _tools(self, count: int, bearings: Sequence[float]) -> list[Tool]:
        """Create robotic tools; in a scene with touching tools at least two."""
        count = max(2, count) if self._touching else count
        tools: list[Tool] = []
        for number, port in enumerate((0, 1, 2, 5)[:count]):
            tools.append(Tool(self._rng(8, number), self._view, bearings[port]))
            if self._touching and number:
                tools[number].follow(tools[number - 1], self._rng(15, number))
        return tools


def _bearings(rng: Generator) -> list[float]:
    """Choose directions of the ports; tools come mostly from the sides and from below."""
    sides = [0.15, math.pi - 0.15, 0.5 * math.pi, -0.5 * math.pi, 0.8, -2.4]
    first = int(rng.integers(2))
    order = [sides[first], sides[1 - first], sides[2], *sides[3:]]
    if rng.random() < 0.3:
        order = [order[i] for i in rng.permutation(6)]
    return [bearing + float(rng.uniform(-0.6, 0.6)) for bearing in order]


class VideoSet(NamedTuple):
    """
    The videos to draw.

    :param videos: number of videos, each of another scene.
    :param frames: number of frames in each.
    :param stride: step between the frames that are drawn, in frames of the scene.
    :param size: (height, width) in pixels.
    :param rate_hz: frames of the scene per second.
    :param seed: the same seed gives the same videos.
    :param jpeg: whether images are JPEG; otherwise PNG, as masks always are.
    :param touching: whether robotic tools touch or cross in most frames, see `Scene`.
    :param instruments: whether to write the ground truth of the instruments, too.
    :param stereo: whether to draw two cameras.
    """

    videos: int
    frames: int
    stride: int
    size: tuple[int, int]
    rate_hz: float
    seed: int
    jpeg: bool
    touching: bool = False
    instruments: bool = False
    stereo: bool = False

    @property
    def last_index(self) -> int:
        """The number of the last frame of each video."""
        return (self.frames - 1) * self.stride

    def job_length(self, workers: int) -> int:
        """Return the number of frames that a process draws in turn: of many videos, all of one."""
        return self.frames if self.videos >= _MANY * workers else min(self.frames, _CHUNK)

    def memory_bytes(self, workers: int) -> int:
        """Estimate the memory of a number of parallel processes."""
        jobs = self.videos * math.ceil(self.frames / self.job_length(workers))
        return _BYTES_PER_PIXEL * math.prod(self.size) * min(workers, jobs)


class Job(NamedTuple):
    """Some frames of one video, which one process draws."""

    video_set: VideoSet
    folder: Path
    scene_seed: int
    indices: range


def draw_videos(video_set: VideoSet, output: Path, workers: int) -> None:
    """
    Draw videos as `video_01/rgb/000000000.png` and `video_01/segmentation/000000000.png`.

    The ground truth of the instruments, if requested, is in `video_01/instances/000000000.png` and
    `video_01/instruments/000000000.json`; a number means the same instrument in all frames. In a
    stereo video, each camera has these folders and its calibration in a folder of its own,
    `video_01/left` and `video_01/right`; the ground truth is that of the left camera.

    :param video_set: the videos.
    :param output: the data set's folder.
    :param workers: number of processes; with 1, this process draws.
    :raises OSError: if a file cannot be written.
    """
    jobs = split_into_jobs(video_set, output, workers)
    if video_set.stereo:
        for folder in {job.folder for job in jobs}:
            for name, text in calibration_files(View(*video_set.size)).items():
                _replace(folder / name, text.encode())
    with tqdm(total=sum(len(job.indices) for job in jobs), unit='frame', leave=False) as bar:
        if workers == 1:
            for job in jobs:
                bar.update(_draw(job))
            return
        with worker_pool(min(workers, len(jobs))) as pool:
            with ignore_terminal_signals():
                drawn = [pool.submit(_draw_alone, job) for job in jobs]
            for done in as_completed(drawn):
                bar.update(done.result())


def split_into_jobs(video_set: VideoSet, output: Path, workers: int) -> Sequence[Job]:
    """Divide the drawing of videos into jobs of some frames of one video each."""
    jobs, length = [], video_set.job_length(workers)
    indices = range(0, video_set.frames * video_set.stride, video_set.stride)
    for video in range(video_set.videos):
        folder = output / f'video_{video + 1:02d}'
        seed = video_set.seed * SCENES_PER_SEED + video
        for start in range(0, video_set.frames, length):
            jobs.append(Job(video_set, folder, seed, indices[start : start + length]))
    return jobs


def _draw_alone(job: Job) -> int:
    """Draw in a worker process, with one thread, since the other workers use the other cores."""
    cv2.setNumThreads(1)
    keep_freed()
    return _draw(job)


def _draw(job: Job) -> int:
    """Draw one job's frames into its folder, and return how many."""
    video_set, scene = job.video_set, _scene(job.scene_seed, job.video_set)
    folders = [job.folder / name for name in CAMERAS] if video_set.stereo else [job.folder]
    suffix = '.jpg' if video_set.jpeg else '.png'
    for index in job.indices:
        for camera, folder in enumerate(folders):
            frame = scene.frame(index, camera)
            _write(folder / 'rgb' / f'{index:09d}{suffix}', frame.image)
            _write(folder / 'segmentation' / f'{index:09d}.png', frame.mask)
            if video_set.instruments:
                _write(folder / INSTANCES_FOLDER / f'{index:09d}.png', frame.instances)
            if video_set.instruments and not camera:
                path = folder / INSTRUMENTS_FOLDER / f'{index:09d}.json'
                _replace(path, _describe(scene.truth(index, frame.instances)))
    return len(job.indices)


def _describe(instruments: Sequence[TrueInstrument]) -> bytes:
    """Serialize the instruments of a frame; their numbers are their track ids."""
    return instruments_to_json(
        [
            ListedInstrument(
                true.number, true.label, true.geometry, true.number, 1.0, true.tip_m, true.axis
            )
            for true in instruments
        ]
    )


@lru_cache(maxsize=1)
def _scene(seed: int, video_set: VideoSet) -> Scene:
    """Return a scene; the last one is cached, since the next job often continues it."""
    return Scene(seed, video_set.size, video_set.rate_hz, video_set.touching, video_set.stereo)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image atomically: a file of its name is always complete."""
    if path.suffix == '.png':
        encoded = encode_png(image)
    else:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    _replace(path, encoded.tobytes())


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=False) as partial:
        partial.write_bytes(content)
