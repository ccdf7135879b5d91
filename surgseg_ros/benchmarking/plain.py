# SPDX-License-Identifier: Apache-2.0
"""A model as most people's nodes run it: PIL, torchvision, eager float32, interpolate, argmax."""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as transforms

from surgseg_ros.core.model_folder import read_model
from surgseg_ros.core.network import load_network
from surgseg_ros.core.runtimes import choose_device


class PlainModel:
    """
    The model of a folder, run as the paper's code runs its own.

    :param folder: the model folder.
    :param device: `auto`, `cpu`, `cuda` …
    """

    def __init__(self, folder: Path | str, device: str = 'auto') -> None:
        self.spec, weights = read_model(folder)
        self.device = torch.device(choose_device(device))
        layers = load_network(self.spec, weights).layers
        self._layers = layers.to(memory_format=torch.contiguous_format).to(self.device)
        self.last_ms = 0.0
        """Milliseconds of the last call: what fits, infers, interpolates and takes the argmax."""

    @torch.no_grad()
    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """
        Find the class of each pixel.

        :param picture: (H, W, 3) uint8 RGB.
        :return: (H, W) uint8.
        """
        started_s = time.perf_counter()
        height, width = self.spec.input_size
        small = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        scaled = transforms.to_tensor(small)
        planes = transforms.normalize(scaled, list(self.spec.mean), list(self.spec.std))
        logits = self._layers(planes[None].to(self.device))
        full = F.interpolate(logits, picture.shape[:2], mode='bilinear', align_corners=False)
        mask: NDArray[np.uint8] = full.argmax(1)[0].cpu().numpy().astype(np.uint8)
        self.last_ms = 1e3 * (time.perf_counter() - started_s)
        return mask
