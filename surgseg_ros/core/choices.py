# SPDX-License-Identifier: Apache-2.0
"""What can be chosen from: models, and names of runtimes and precisions; does not import torch."""

from pathlib import Path
from typing import Final

from surgseg_ros.core.model_folder import PRECISIONS as EXPORTED_PRECISIONS
from surgseg_ros.core.model_folder import SPEC_FILE, ModelError

AUTO: Final = 'auto'

DEFAULT_MODEL: Final = 'default'
"""In place of a folder: the model that ships. A folder of this name is `./default`."""

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def find_model(folder: Path | str, package: Path = _PACKAGE) -> Path:
    """
    Find the folder of a model.

    :param folder: the folder, or DEFAULT_MODEL for the model that ships.
    :param package: the folder of the package that it ships with.
    :return: the folder; only that of DEFAULT_MODEL is known to exist.
    :raises ModelError: if the model that ships is nowhere; it names the places and the remedy.
    """
    if str(folder) != DEFAULT_MODEL:
        return Path(folder)
    shares = [parent / 'share' / package.name for parent in package.parents]
    # Beside the package in a checkout; else where colcon and pip install it, under their prefix.
    places = [root / 'models' / DEFAULT_MODEL for root in (package.parent, *shares)]
    for place in places:
        if (place / SPEC_FILE).is_file():
            return place
    raise ModelError(
        f'the model that ships with {package.name} is not there; looked for {SPEC_FILE} in '
        f'{", ".join(map(str, places))}: install the package again, or name the folder of another '
        'model (parameter model, or --model)'
    )


RUNTIME_NAMES: Final = ('torch', 'openvino', 'onnxruntime')
"""The keys of `runtimes.RUNTIMES`, for code that must not import torch."""

TORCH_PRECISIONS: Final = ('f32', 'bf16', 'f16')
"""Precisions in which torch can run a network, independent of training."""

PRECISIONS: Final = (AUTO, *dict.fromkeys((*TORCH_PRECISIONS, *EXPORTED_PRECISIONS)))
"""Precisions that at least one runtime supports."""
