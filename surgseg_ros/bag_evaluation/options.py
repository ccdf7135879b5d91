# SPDX-License-Identifier: Apache-2.0
"""What is asked of the evaluation of a bag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgseg_ros.core.parameters import pipeline_settings
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.runtimes import AUTO
from surgseg_ros.core.segmentation import Roi

_AS_THE_NODE: Final = pipeline_settings()
"""The node's defaults."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """
    One value that goes to every process.

    :param image_topic: the images.
    :param ground_truth_topic: their true masks, if any.
    :param mask_topic: masks that the bag holds; None to make them.
    :param tolerance_ns: how far the stamps of an image and of its truth may be apart.
    :param model: the model folder; None where the bag holds the masks.
    :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
    :param runtime: a key of RUNTIMES, or AUTO, which is the node's default too.
    :param precision: one of PRECISIONS of core/choices.py.
    :param threads: torch's on the CPU; 0 for torch's choice.
    :param roi: the part of the images to look at; None for all.
    :param pipeline: what becomes of the network's output.
    :param confidence: whether the output bag holds the confidence.
    """

    image_topic: str
    ground_truth_topic: str | None = None
    mask_topic: str | None = None
    tolerance_ns: int = 0
    model: Path | None = None
    device: str = 'auto'
    runtime: str = AUTO
    precision: str = AUTO
    threads: int = 0
    roi: Roi | None = None
    pipeline: PipelineSettings = _AS_THE_NODE
    confidence: bool = False

    @property
    def topics(self) -> list[str]:
        """The topics that are read."""
        names = self.image_topic, self.ground_truth_topic, self.mask_topic
        return [name for name in names if name is not None]

    def described(self) -> dict[str, Any]:
        """Give what decides the result, for a JSON file."""
        roi = self.roi
        return {
            'image_topic': self.image_topic,
            'ground_truth_topic': self.ground_truth_topic,
            'mask_topic': self.mask_topic,
            'tolerance_ms': self.tolerance_ns / 1e6,
            'device': self.device,
            'runtime': self.runtime,
            'precision': self.precision,
            'roi': roi and [roi.x_px, roi.y_px, roi.width_px, roi.height_px],
            'least_area': self.pipeline.least_area,
            'min_confidence': self.pipeline.min_confidence,
            'steady_frames': self.pipeline.steady_frames,
            'steady_sure': self.pipeline.steady_sure,
            'gates': {
                name: [setting.action, setting.limit]
                for name, setting in self.pipeline.gates.items()
            },
        }
