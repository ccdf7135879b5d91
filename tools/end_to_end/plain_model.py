# SPDX-License-Identifier: Apache-2.0
"""A model in the common way: PIL, torchvision, eager float32, interpolation, argmax."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as transforms

from surgseg_ros.core.model_folder import read_model
from surgseg_ros.core.runtimes import choose_device
from surgseg_ros.core.runtimes.pytorch import load_network
from surgseg_ros.core.timing import Stopwatch


class PlainModel:
    """
    The model of a folder, run like the code of the paper.

    :param folder: the model folder.
    :param device: `auto`, `cpu`, `cuda` …
    """

    def __init__(self, folder: Path | str, device: str = 'auto') -> None:
        self.spec, weights = read_model(folder)
        self.device = torch.device(choose_device(device))
        layers = load_network(self.spec, weights).layers
        self._layers = layers.to(memory_format=torch.contiguous_format).to(self.device)
        self.stage_ms: dict[str, float] = {}
        """
        Milliseconds of `fit`, `network` and `upsample` of the last call.

        Work of a GPU counts in the stage that waits for it, the last one.
        """

    @property
    def last_ms(self) -> float:
        """Milliseconds of the last call: resizing, inference, interpolation and argmax."""
        return sum(self.stage_ms.values())

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """
        Find the class of each pixel.

        :param image: (H, W, 3) uint8 RGB.
        :return: (H, W) uint8.
        """
        watch = Stopwatch()
        height, width = self.spec.input_size
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        scaled = transforms.to_tensor(small)
        planes = transforms.normalize(scaled, list(self.spec.mean), list(self.spec.std))
        watch.lap('fit')
        logits = self._layers(planes[None].to(self.device))
        watch.lap('network')
        mask = plain_upsampling(logits, (image.shape[0], image.shape[1]))
        watch.lap('upsample')
        self.stage_ms = watch.times_ms()
        return mask


def plain_upsampling(logits: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """
    Compute the argmax of the logits, interpolated to the image's size.

    :param logits: (1, C, h, w).
    :param size: (height, width) of the image in pixels.
    :return: (H, W) uint8.
    """
    full = F.interpolate(logits, size, mode='bilinear', align_corners=False)
    mask: NDArray[np.uint8] = full.argmax(1)[0].cpu().numpy().astype(np.uint8)
    return mask
