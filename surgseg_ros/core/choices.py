# SPDX-License-Identifier: Apache-2.0
"""Names of runtimes, precisions and modes to choose from; does not import torch."""

from typing import Final

from surgseg_ros.core.model_folder import PRECISIONS as EXPORTED_PRECISIONS

AUTO: Final = 'auto'

FIXED: Final = 'fixed'
ROI_MODES: Final = (FIXED, AUTO)
"""Where the region of interest comes from: the parameter `roi`, or the images."""

RUNTIME_NAMES: Final = ('torch', 'openvino', 'onnxruntime')
"""The keys of `runtimes.RUNTIMES`, for code that must not import torch."""

TORCH_PRECISIONS: Final = ('f32', 'bf16', 'f16')
"""Precisions in which torch can run a network, independent of training."""

PRECISIONS: Final = (AUTO, *dict.fromkeys((*TORCH_PRECISIONS, *EXPORTED_PRECISIONS)))
"""Precisions that at least one runtime supports."""
