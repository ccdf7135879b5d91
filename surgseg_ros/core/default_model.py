# SPDX-License-Identifier: Apache-2.0
"""The model that ships with the package: where it is."""

from pathlib import Path
from typing import Final

from surgseg_ros.core.model_folder import SPEC_FILE, ModelError

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
