# SPDX-License-Identifier: Apache-2.0
"""Garbage is still collected, but not sought among what stays."""

import gc
import weakref

import pytest

from surgseg_ros.core.processes import freeze_garbage, importing


class Knot:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def settled():
    stays = Knot()
    freeze_garbage()
    yield stays
    gc.unfreeze()


def test_what_stays_is_not_examined_at_again(settled):
    assert all(one is not settled for one in gc.get_objects())


def test_while_libraries_are_imported_no_garbage_is_sought_in_them():
    try:
        with importing():
            stays = Knot()
            assert not gc.isenabled()
        assert gc.isenabled()
        assert all(one is not stays for one in gc.get_objects())
    finally:
        gc.unfreeze()


def test_after_a_failed_import_garbage_is_sought_again():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_what_comes_later_is_freed(settled):
    seen = weakref.ref(Knot())
    gc.collect()
    assert seen() is None
