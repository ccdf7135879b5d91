# SPDX-License-Identifier: Apache-2.0
"""Garbage is still collected, but permanent objects are not examined."""

import gc
import weakref

import pytest

from surgseg_ros.core.processes import freeze_garbage, importing


class ReferenceCycle:
    """A reference cycle, which only the garbage collector frees."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def frozen():
    stays = ReferenceCycle()
    freeze_garbage()
    return stays


def test_permanent_objects_are_not_examined_again(frozen):
    assert all(one is not frozen for one in gc.get_objects())


def test_garbage_collection_is_off_while_libraries_are_imported():
    with importing():
        stays = ReferenceCycle()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert all(one is not stays for one in gc.get_objects())


def test_imported_objects_of_a_process_that_continues_may_be_collected_later():
    with importing(freeze=False):
        stays = ReferenceCycle()
    assert gc.isenabled()
    assert any(one is stays for one in gc.get_objects())


def test_garbage_collection_is_on_after_a_failed_import():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_later_objects_are_freed(frozen):
    seen = weakref.ref(ReferenceCycle())
    gc.collect()
    assert seen() is None
