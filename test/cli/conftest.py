# SPDX-License-Identifier: Apache-2.0
"""A small model for the tests of verbs that run one."""

import pytest
from tiny_models import write_tiny_model


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models') / 'tiny'
    least_region = (0.0, *[0.02] * 9)
    return write_tiny_model(folder, input_size=(32, 64), least_region=least_region)
