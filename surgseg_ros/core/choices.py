# SPDX-License-Identifier: Apache-2.0
"""Names of what a person may choose about how a network runs; does not import torch."""

from typing import Final

from surgseg_ros.core.model_folder import PRECISIONS as EXPORTED_PRECISIONS

AUTO: Final = 'auto'

RUNTIME_NAMES: Final = ('torch', 'openvino', 'onnxruntime')
"""The keys of `runtimes.RUNTIMES`, for those who must not wait for torch to list them."""

TORCH_PRECISIONS: Final = ('f32', 'bf16', 'f16')
"""What torch can compute a network in, whatever it was trained in."""

PRECISIONS: Final = (AUTO, *dict.fromkeys((*TORCH_PRECISIONS, *EXPORTED_PRECISIONS)))
"""Precisions that some runtime has."""
