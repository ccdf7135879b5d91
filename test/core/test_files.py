# SPDX-License-Identifier: Apache-2.0
"""Files and folders are written atomically, and errors name them."""

import errno
import os
import stat
from pathlib import Path

import pytest

from surgseg_ros.core.files import (
    check_file,
    check_folder,
    check_free_space,
    check_new_folder,
    check_new_path,
    cleaned_up,
    folder_for,
    hidden_folder,
    new_folder,
    remove_unfinished,
    replacing,
    scratch_folder,
    write_atomically,
    writing,
)


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*')}


def test_a_file_is_replaced_atomically_and_parent_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / 'a/b/file'
    for text in (b'one', b'two'):
        write_atomically(path, text)
        assert path.read_bytes() == text
    assert content(tmp_path) == {'a', 'a/b', 'a/b/file'}


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space'), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_previous_file(tmp_path: Path, error: BaseException) -> None:
    write_atomically(tmp_path / 'file', b'before')

    def fail(path: Path) -> None:
        with replacing(path) as partial:
            partial.write_bytes(b'half')
            raise error

    with pytest.raises(type(error)) as raised:
        fail(tmp_path / 'file')
    assert getattr(raised.value, 'filename', None) in (str(tmp_path / 'file'), None)
    assert (tmp_path / 'file').read_bytes() == b'before'
    with pytest.raises(type(error)):
        fail(tmp_path / 'a/b/file')
    assert content(tmp_path) == {'file'}


def test_a_file_with_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ('x' * 255)
    write_atomically(path, b'whole')
    assert content(tmp_path) == {path.name}


def test_a_symlink_stays_a_symlink(tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to(tmp_path / 'file')
    write_atomically(tmp_path / 'link', b'whole')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'file').read_bytes() == b'whole'


def test_a_device_file_is_written_to_and_never_replaced() -> None:
    write_atomically(Path('/dev/null'), b'gone')
    assert stat.S_ISCHR(Path('/dev/null').stat().st_mode)
    with pytest.raises(OSError, match='/dev/full') as raised:
        write_atomically(Path('/dev/full'), b'x')
    assert raised.value.errno == errno.ENOSPC


def test_error_names_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine')
    for act in (
        lambda: write_atomically(tmp_path / 'file/a/b', b''),
        lambda: check_file(tmp_path / 'file/a/b'),
        lambda: check_folder(tmp_path / 'file/a'),
    ):
        with pytest.raises(NotADirectoryError) as raised:
            act()
        assert raised.value.filename == str(tmp_path / 'file')
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('exists', [False, True])
def test_a_new_folder_appears_atomically(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / 'out'
    if exists:
        path.mkdir()
    with new_folder(path) as making:
        (making / 'file').write_text('whole')
        assert exists or not path.exists()
    assert content(tmp_path) == {'out', 'out/file'}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize('exists', [False, True])
def test_a_failed_new_folder_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / 'a/out'
    if exists:
        path.mkdir(parents=True)

    def fail() -> None:
        with new_folder(path) as making:
            write_atomically(making / 'folder/file', b'half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert content(tmp_path) == ({'a', 'a/out'} if exists else set())


def test_an_error_of_reading_keeps_its_file_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, hidden_folder(tmp_path / 'out'):
        (tmp_path / 'input').read_bytes()
    assert raised.value.filename == str(tmp_path / 'input')
    with pytest.raises(OSError, match='out') as failed, hidden_folder(tmp_path / 'out') as folder:
        (folder / 'no/file').write_bytes(b'')
    assert failed.value.filename == str(tmp_path / 'out')
    assert not content(tmp_path)


def test_incomplete_files_are_removed_without_unwinding(tmp_path: Path) -> None:
    (tmp_path / 'there').mkdir()
    with scratch_folder() as scratch, replacing(tmp_path / 'file') as partial:
        partial.write_bytes(b'half')
        with new_folder(tmp_path / 'there') as there, new_folder(tmp_path / 'new') as new:
            (there / 'file').write_text('half')
            (new / 'file').write_text('half')
            remove_unfinished()
            assert content(tmp_path) == {'there'}
            assert not scratch.exists()
            scratch.mkdir()
            new.mkdir(parents=True)
        partial.write_bytes(b'')


def test_incomplete_blocks_are_cleaned_up_innermost_first(tmp_path: Path) -> None:
    called: list[str] = []
    with pytest.raises(KeyError), cleaned_up(lambda: called.append('failed')):
        raise KeyError
    assert called == ['failed']
    with folder_for(tmp_path / 'made/file'), cleaned_up((tmp_path / 'made/record').unlink):
        (tmp_path / 'made/record').touch()
        remove_unfinished()
        assert not content(tmp_path)
        (tmp_path / 'made').mkdir()
    called.clear()
    with cleaned_up(lambda: called.append('complete')):
        pass
    remove_unfinished()
    assert not called


def test_a_check_leaves_no_file(tmp_path: Path) -> None:
    for check in (check_file, check_folder, check_new_path, check_new_folder):
        check(tmp_path / 'a/b')
    check_file(Path('/dev/stdout'))
    check_free_space(tmp_path, 1000)
    assert not content(tmp_path)
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ValueError, match='is not an empty folder'):
        check_new_folder(tmp_path)
    with pytest.raises(IsADirectoryError):
        check_file(tmp_path)
    with pytest.raises(OSError, match='too long'):
        check_file(tmp_path / 'a' / ('x' * 256))
    assert content(tmp_path) == {'file'}


def test_write_errors_without_a_file_name_get_one() -> None:
    with pytest.raises(OSError, match='here') as raised, writing('here'):
        os.write(os.open('/dev/full', os.O_WRONLY), b'x')
    assert raised.value.filename == 'here'
