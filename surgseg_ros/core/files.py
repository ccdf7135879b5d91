# SPDX-License-Identifier: Apache-2.0
"""Files whose name never stands for a part of them."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """
    Write a file so that its name never stands for a part of it.

    :param path: where; its folder must exist.
    :param content: of the file.
    """
    partial = path.with_name(path.name + '.partial')
    with partial.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
