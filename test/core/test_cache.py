# SPDX-License-Identifier: Apache-2.0
"""The user's cache: what is kept is read again, and nothing else is."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from surgseg_ros.core import cache as module
from surgseg_ros.core.cache import Cache, Entry, user_cache

PARTS = b'<net/>\n', b'', bytes(range(256))
ENTRY = Entry({'quickest': 'f32', 'agreement': {'f32': 1.0}}, PARTS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return Cache('kind', 3)


def test_an_entry_is_read_back(cache: Cache, tmp_path: Path) -> None:
    assert cache.read('a') is None
    assert not any(tmp_path.iterdir()), 'reading creates nothing'
    cache.write('a', ENTRY)
    assert cache.read('a') == ENTRY
    assert cache.read('b') is None
    assert [path.name for path in cache.folder.iterdir()] == ['a.entry']


def _flip(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


@pytest.mark.parametrize(
    'damage',
    [
        *(lambda content: b'', lambda content: content[:64], lambda content: content[:-1]),
        *(lambda content: content + b'0', lambda content: bytes(len(content))),
        *(lambda content, at=at: _flip(content, at) for at in (0, 64, 70, -1 - 256, -2)),
    ],
)
def test_a_damaged_entry_is_reported_and_removed(
    cache: Cache, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cache.write('a', ENTRY)
    path = cache.folder / 'a.entry'
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read('a') is None
    assert f'{path} is ignored (it is damaged), and will be made again' in caplog.text
    assert not path.exists()


def test_rejects_a_link_and_a_file_of_another_user(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cache.write('a', ENTRY)
    path = cache.folder / 'a.entry'
    elsewhere = path.rename(tmp_path / 'elsewhere')
    path.symlink_to(elsewhere)
    assert cache.read('a') is None
    cache.write('a', Entry({}, ()))
    assert cache.read('a') == Entry({}, ())
    assert elsewhere.stat().st_size > 300, 'it is not written through the link either'
    monkeypatch.setattr(os, 'geteuid', lambda: 4711)
    assert cache.read('a') is None
    assert 'it is not a file of this user' in caplog.text


def test_rejects_an_entry_that_is_too_large(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cache.write('a', ENTRY)
    monkeypatch.setattr(module, '_LARGEST_BYTES', 100)
    assert cache.read('a') is None
    assert 'bytes), and will be made again' in caplog.text


def test_removes_the_least_recently_used_entries(cache: Cache) -> None:
    for age, key in enumerate('abcd'):
        cache.write(key, ENTRY)
        os.utime(cache.folder / f'{key}.entry', (1000 + age, 1000 + age))
        if key == 'b':
            assert cache.read('a'), 'and so it was used last'
    (cache.folder / 'x.entry.partial').touch()  # of a process that was killed
    cache.write('e', ENTRY)
    assert sorted(path.name for path in cache.folder.iterdir()) == [
        *('a.entry', 'd.entry', 'e.entry'),
    ]


def test_error_names_a_folder_that_cannot_be_written(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / 'surgseg_ros').touch()
    with cache.exclusive('waiting'):
        assert cache.read('a') is None
        with pytest.raises(OSError, match='Not a directory') as raised:
            cache.write('a', ENTRY)
    assert raised.value.filename == str(tmp_path / 'surgseg_ros')


def test_the_folder_is_that_of_the_xdg_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', '/caches')
    assert user_cache() == Path('/caches/surgseg_ros')
    for ignored in ('', 'relative'):
        monkeypatch.setenv('XDG_CACHE_HOME', ignored)
        assert user_cache() == tmp_path / '.cache/surgseg_ros'
    monkeypatch.setattr(Path, 'home', _no_home)
    with pytest.raises(OSError, match='no home folder'):
        user_cache()
    assert Cache('kind', 1).read('a') is None


def _no_home() -> Path:
    raise RuntimeError('Could not determine home directory.')


def test_one_process_at_a_time_makes_an_entry(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    order: list[str] = []
    waits = threading.Event()

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waits.set()

    def second() -> None:
        with cache.exclusive('waiting for the first'):
            order.append('second')

    handler = Waits()
    logging.getLogger('surgseg_ros').addHandler(handler)
    try:
        with cache.exclusive('waiting'):
            thread = threading.Thread(target=second)
            thread.start()
            assert waits.wait(60)
            order.append('first')
        thread.join(60)
    finally:
        logging.getLogger('surgseg_ros').removeHandler(handler)
    assert order == ['first', 'second']
    assert caplog.messages == ['waiting for the first']


def test_a_process_that_hangs_is_not_waited_for_forever(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, '_LONGEST_WAIT_S', 0.2)
    entered: list[str] = []
    with cache.exclusive('waiting'):
        entered.append('the one that hangs')
        with cache.exclusive('waiting for the first'):
            entered.append('the one that waited')
    assert entered == ['the one that hangs', 'the one that waited']
    assert caplog.messages == ['waiting for the first']


def test_the_folder_is_private(cache: Cache) -> None:
    cache.write('a', ENTRY)
    assert cache.folder.stat().st_mode & 0o077 == 0
