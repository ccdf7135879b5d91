# SPDX-License-Identifier: Apache-2.0
"""The plain model has the same network, and gives masks of the same size."""

from pathlib import Path

import numpy as np
from tiny_models import write_tiny_model

from surgseg_ros.core.segmenter import Segmenter
from tools.end_to_end.plain_model import PlainModel


def test_a_plain_model_gives_masks_of_the_same_size(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (96, 144, 3), np.uint8)
    plain, ours = PlainModel(model, 'cpu'), Segmenter.load(model, 'cpu', 'torch')
    mask = plain(image)
    assert (mask.shape, mask.dtype) == ((96, 144), np.uint8)
    assert plain.last_ms > 0
    same = np.mean(mask == ours.segment(image).mask)
    assert same > 0.8, 'the two resize differently, but it is the same network'
