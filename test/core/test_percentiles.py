# SPDX-License-Identifier: Apache-2.0
import pytest

from surgseg_ros.core.timing import percentiles


def test_percentiles_of_known_values() -> None:
    assert percentiles(range(101)) == (50.0, 95.0, 99.0)
    assert percentiles([3.0]) == (3.0, 3.0, 3.0)


def test_rejects_an_empty_list() -> None:
    with pytest.raises(ValueError, match='no frame was measured'):
        percentiles([])
