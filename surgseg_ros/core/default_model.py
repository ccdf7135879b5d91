# SPDX-License-Identifier: Apache-2.0
"""Finds the model that is installed with the package."""

from pathlib import Path
from typing import Final

from surgseg_ros.core.model_folder import SPEC_FILE, ModelError

DEFAULT_MODEL: Final = 'default'
"""Name of the model that comes with the package. A folder of this name is given as `./default`."""

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def find_model(folder: Path | str, package: Path = _PACKAGE) -> Path:
    """
    Find the folder of a model.

    :param folder: the folder, or DEFAULT_MODEL for the model that comes with the package.
    :param package: the folder of the package.
    :return: the folder; it is only checked to exist for DEFAULT_MODEL.
    :raises ModelError: if DEFAULT_MODEL is not installed; the message gives places and remedy.
    """
    if str(folder) != DEFAULT_MODEL:
        return Path(folder)
    shares = [parent / 'share' / package.name for parent in package.parents]
    # Beside the package in a checkout; otherwise where colcon and pip install it.
    places = [root / 'models' / DEFAULT_MODEL for root in (package.parent, *shares)]
    for place in places:
        if (place / SPEC_FILE).is_file():
            return place
    raise ModelError(
        f'the model that ships with {package.name} is missing; looked for {SPEC_FILE} in '
        f'{", ".join(map(str, places))}: install the package again, or name the folder of another '
        'model (parameter model, or --model)'
    )
