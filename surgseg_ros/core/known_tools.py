# SPDX-License-Identifier: Apache-2.0
"""
Continues robotic tools of the last image that an image alone would merge.

Where tools that touch are divided is decided for each image, and may change from one to the next.
The tools of the last image, moved as their tracks predict, show where that happens. The parts
there are then given to these tools, if all of them fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from surgseg_ros.core.parts import MIN_SAMPLES, Part, ToolParts
from surgseg_ros.core.segmentation import Field, Points, select
from surgseg_ros.core.shafts import orient_shaft
from surgseg_ros.core.strips import fit_strip

_CODES: Final = 3
"""Number of labels of parts; they are 1 to 3."""

_MAX_TOOLS: Final = 6
"""Where more tools of the last image meet, none are continued: it would take too long."""

_MAX_SAMPLED: Final = 84
"""Number of tools that fit into the samples, which have eight bits."""

_VISIBLE: Final = 0.5
"""Least share of a tool's predicted samples that are samples of tools; else it may be gone."""

_FITS: Final = 0.7
"""Least IoU of a tool that is continued with its prediction."""

_MEETING: Final = 0.1
"""Least share of the smaller one of two tools that is in the other one if they are compared."""

_SHARE: Final = 0.2
"""A tool has a share of a part if that is at least this share of the part, or of the tool."""

_OTHER_LABEL: Final = 3.0
"""Extra distance from samples of another label, in samples."""

_FAR: Final = 6.0
_NEW: Final = 0.1
"""There is a new tool if more than this share is farther than _FAR samples from the known ones."""

Grid = NDArray[np.uint8]
Indices = NDArray[np.intp]


class KnownTools(NamedTuple):
    """
    The robotic tools of the last image that may be continued.

    :param samples: (h, w) as `sample_tools` returns them, of the last image.
    :param numbers: (n,) numbers of the tools in them.
    :param shifts_px: (n, 2) by how much the position of each has changed, in x and y.
    """

    samples: Grid
    numbers: Indices
    shifts_px: Points


class Merged(NamedTuple):
    """
    Tools of the last image of which some are one tool in this image, and the tools there.

    :param known: indices in KnownTools.
    :param tools: numbers of the tools of this image.
    """

    known: list[int]
    tools: list[int]


def sample_tools(tools: Sequence[ToolParts | None], size: tuple[int, int]) -> Grid:
    """
    Draw the parts of tools on the grid.

    :param tools: at most 84; None for another instrument.
    :param size: (H, W) of the image in pixels.
    :return: (h, w) uint8: three times the number of the tool, from 0, plus the label of the part;
        0 elsewhere.
    """
    step = Field(size).step
    grid = np.zeros([len(range(step // 2, side, step)) for side in size], np.uint8)
    for number, tool in enumerate(tools):
        for part in tool.parts if tool else ():
            columns, rows = (part.points.T / step).astype(np.intp)
            grid[rows, columns] = _CODES * number + part.label
    return grid


def numbers_in(samples: Grid) -> list[int]:
    """
    List the numbers of tools.

    :param samples: (h, w) as `sample_tools` returns them.
    :return: those of which there are samples, ascending.
    """
    numbers: list[int] = np.flatnonzero(_areas(samples)).tolist()
    return numbers


def _areas(samples: Grid) -> Indices:
    """Return the number of samples of each tool."""
    histogram = cv2.calcHist([samples], [0], None, [256], [0, 256]).reshape(-1)
    return np.asarray(histogram[1:].reshape(-1, _CODES).sum(axis=1), np.intp)


class _Predicted(NamedTuple):
    """The predicted samples of a tool: (n,) rows and columns on the grid, and labels."""

    rows: Indices
    columns: Indices
    labels: Indices


def _predict(known: KnownTools, step: int) -> list[_Predicted]:
    height, width = known.samples.shape
    flat = known.samples.reshape(-1)
    filled = np.flatnonzero(flat != 0)
    rows, columns = np.divmod(filled, width)
    numbers, labels = np.divmod(flat[filled].astype(np.intp) - 1, _CODES)
    found = []
    for number, shift in zip(known.numbers.tolist(), np.rint(known.shifts_px / step)):
        own = np.flatnonzero(numbers == number)
        x, y = columns[own] + int(shift[0]), rows[own] + int(shift[1])
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        found.append(_Predicted(y[inside], x[inside], labels[own][inside] + 1))
    return found


def find_merged(known: KnownTools, samples: Grid, step: int) -> list[Merged]:
    """
    Find tools of the last image that are one in this image.

    Tools that are in pieces, or have other parts, are as this image shows them: the last one may
    have merged them, which would last.

    :param known: the tools of the last image.
    :param samples: (h, w) as `sample_tools` returns them, of this image.
    :param step: distance between neighbouring samples, in pixels.
    :return: sets of tools that meet, each tool in at most one.
    """
    # Every second row and column is enough here, where every image must pass, and faster.
    thin = known._replace(samples=np.ascontiguousarray(known.samples[::2, ::2]))
    return _merged(_predict(thin, 2 * step), np.ascontiguousarray(samples[::2, ::2]))


def _merged(predicted: list[_Predicted], samples: Grid) -> list[Merged]:
    areas, counts = np.array([len(one.rows) for one in predicted]), _areas(samples)
    own_areas = np.maximum(np.trim_zeros(counts, 'b'), 1)
    if not len(own_areas):
        return []
    both = np.zeros((len(areas), len(own_areas)), np.intp)
    for index, one in enumerate(predicted):
        codes = np.bincount(samples[one.rows, one.columns], minlength=256)[1:256]
        both[index] = codes.reshape(-1, _CODES).sum(axis=1)[: len(own_areas)]
    iou = both / (areas[:, None] + own_areas - both)
    meet = both >= np.maximum(1, _MEETING * np.minimum(areas[:, None], own_areas))
    meet[both.sum(axis=1) < _VISIBLE * areas] = False
    found = []
    for group in _connected(meet):
        best = iou[np.ix_(group.known, group.tools)].argmax(axis=1)
        if len(np.unique(best)) < len(best) <= _MAX_TOOLS:
            found.append(group)
    return found


def _connected(meet: NDArray[np.bool_]) -> list[Merged]:
    """Return the connected sets of rows and columns of a matrix."""
    rest, found = set(np.flatnonzero(meet.any(axis=1)).tolist()), []
    while rest:
        rows, grown = set[int](), {min(rest)}
        while grown != rows:
            rows = grown
            columns = np.flatnonzero(meet[sorted(rows)].any(axis=0))
            grown = set(np.flatnonzero(meet[:, columns].any(axis=1)).tolist())
        rest -= rows
        found.append(Merged(sorted(rows), columns.tolist()))
    return found


def continue_tools(
    tools: list[ToolParts], parts: Sequence[Part], known: KnownTools, field: Field
) -> list[ToolParts]:
    """
    Give parts to the tools of the last image that this image merges.

    :param tools: the tools that the image alone shows.
    :param parts: the connected components that they consist of.
    :param known: the tools of the last image.
    :param field: the visible part of the image.
    :return: the tools; those that are continued are marked, and their tips are uncertain.
    """
    if len(tools) > _MAX_SAMPLED:
        return tools
    predicted, samples = _predict(known, field.step), sample_tools(tools, field.size)
    owners = (samples.astype(np.intp) + _CODES - 1) // _CODES - 1
    replaced, continued = set[int](), list[ToolParts]()
    for one in _merged(predicted, samples):
        # What is predicted for several tools belongs to the smallest, which it matters most to.
        former = sorted((predicted[n] for n in one.known), key=lambda one: len(one.rows))
        found = _regroup(parts, np.isin(owners, one.tools), former, field)
        if found and all(_fits(*pair, field) for pair in zip(found, former, strict=True)):
            replaced.update(one.tools)
            continued += found
    return [tool for number, tool in enumerate(tools) if number not in replaced] + continued


def _regroup(
    parts: Sequence[Part], chosen: NDArray[np.bool_], former: list[_Predicted], field: Field
) -> list[ToolParts]:
    """Give the chosen samples of parts to former tools; return nothing if there is a new tool."""
    margin, area = math.ceil(_FAR), cv2.boundingRect(chosen.view(np.uint8))
    left, top = area[0] - margin, area[1] - margin
    shape = area[3] + 2 * margin, area[2] + 2 * margin
    maps = [_distance_maps(one, (top, left), shape) for one in former]
    tools = [ToolParts([], [], [], is_shared=True, is_continued=True) for _ in former]
    limits, total, far = _SHARE * np.array([len(one.rows) for one in former]), 0, 0
    for part in parts:
        columns, rows = (part.points.T / field.step).astype(np.intp)
        own = chosen[rows, columns]
        away = np.stack([each[part.label][rows[own] - top, columns[own] - left] for each in maps])
        total += away.shape[1]
        far += int(np.count_nonzero(away.min(axis=0) > _FAR))
        counts = np.bincount(away.argmin(axis=0), minlength=len(tools))
        away[(counts < limits) & (counts < min(_SHARE * len(away.T), counts.max()))] = np.inf
        owner = away.argmin(axis=0)
        points = select(part.points, own)
        for number, tool in enumerate(tools):
            share = select(points, owner == number)
            if len(share) >= MIN_SAMPLES:
                _add(tool, part.label, share, field)
    if far > _NEW * total or not all(tool.parts for tool in tools):
        return []
    for tool in tools:
        tool.shafts.sort(key=lambda shaft: -len(shaft.points))
        if tool.shafts:
            orient_shaft(tool, [*tool.wrists, *tool.claspers], field)
    return tools


def _add(tool: ToolParts, label: int, points: Points, field: Field) -> None:
    if label == SHAFT:
        tool.shafts.append(Part(label, points, field.step, fit_strip(points, field)))
    else:
        tool.add(Part(label, points, field.step))


def _distance_maps(
    one: _Predicted, corner: tuple[int, int], shape: tuple[int, int]
) -> dict[int, NDArray[np.float32]]:
    """Return by label (h, w) distances from predicted samples; more from those of others."""
    rows, columns = one.rows - corner[0], one.columns - corner[1]
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])

    def distances(chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        free = np.ones(shape, np.uint8)
        free[rows[chosen & inside], columns[chosen & inside]] = 0
        return np.asarray(cv2.distanceTransform(free, cv2.DIST_L2, 3), np.float32)

    nearest = distances(np.ones(len(one.rows), bool)) + np.float32(_OTHER_LABEL)
    maps = {}
    for label in (CLASPER, WRIST, SHAFT):
        own = one.labels == label
        maps[label] = np.minimum(nearest, distances(own)) if own.any() else nearest
    return maps


def _fits(tool: ToolParts, former: _Predicted, field: Field) -> bool:
    samples = sample_tools([tool], field.size)
    both = np.count_nonzero(samples[former.rows, former.columns])
    return bool(both >= _FITS * (np.count_nonzero(samples) + len(former.rows) - both))
