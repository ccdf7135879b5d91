# SPDX-License-Identifier: Apache-2.0
"""Lost fragments of an MP4 file, with and without sound, do not shift later frame numbers."""

import re
import struct
from itertools import count

import pytest
from made_videos import GOP, boxes, fragments, number_of, overwrite, rewrite, without, write_video

from surgseg_ros.evaluation.videos import open_video

COUNT = 3 * GOP
RELATIVE = 'frag_keyframe+empty_moov+default_base_moof'
"""Fragments whose offsets do not depend on earlier data, so that they stay readable."""
KINDS = [
    RELATIVE,
    'frag_keyframe+empty_moov',
    'frag_keyframe+default_base_moof',
    'frag_keyframe+delay_moov',
    f'{RELATIVE}+separate_moof',
    f'{RELATIVE}+global_sidx',
    f'{RELATIVE}+dash',
    f'{RELATIVE}+cmaf+negative_cts_offsets',
    'cmaf+frag_every_frame',
]
VARYING = [t for t in range(60) if t % 12 not in (3, 4, 7)][:COUNT]


def write(path, flags=RELATIVE, sound=True, **more):
    return write_video(path, COUNT, container={'movflags': flags}, sound=sound, **more)


def read(path):
    data_errors = {}
    found = {n: number_of(image) for n, image in open_video(path).read(count(), data_errors)}
    return found, data_errors


def assert_whole(path):
    assert open_video(path).data_errors == ()
    assert read(path) == ({n: n for n in range(COUNT)}, {})


def assert_never_shifted(path):
    """Check that all numbers are right and a loss is reported; return the numbers."""
    assert open_video(path).data_errors
    found, _ = read(path)
    assert found == {n: n for n in found}
    return set(found)


def has_video(path, fragment):
    """Check whether the first track, the video, is in a fragment."""
    content = path.read_bytes()[slice(*fragment)]
    return any(
        content[head.end() + 4 : head.end() + 8] == b'\0\0\0\1'
        for head in re.finditer(b'tfhd', content)
    )


def renumber(path, numbers):
    """Change the sequence numbers of the fragments."""
    for (start, _), number in zip(fragments(path), numbers, strict=False):
        overwrite(path, start + 20, struct.pack('>I', number))


def without_times(path):
    """Make the decode times of fragments unreadable; not every writer stores them."""
    rewrite(path, path.read_bytes().replace(b'tfdt', b'free'))


@pytest.mark.parametrize('flags', [*KINDS, 'hybrid_fragmented', 'frag_keyframe+frag_discont'])
@pytest.mark.parametrize('sound', [False, True])
def test_a_complete_file_is_accepted(tmp_path, flags, sound):
    assert_whole(write(tmp_path / 'x.mp4', flags, sound))


@pytest.mark.parametrize('flags', KINDS)
@pytest.mark.parametrize('sound', [False, True])
@pytest.mark.parametrize('times', [None, VARYING])
def test_a_missing_fragment_does_not_shift_numbers(tmp_path, flags, sound, times):
    whole = write(tmp_path / 'x.mp4', flags, sound, times=times)
    with_video = [pair for pair in fragments(whole) if has_video(whole, pair)]
    for number, pair in enumerate(with_video[:3] + with_video[-3:-1]):
        path = tmp_path / f'{number}.mp4'
        path.write_bytes(whole.read_bytes())
        without(path, *pair)
        assert_never_shifted(path)


@pytest.mark.parametrize('sound', [False, True])
def test_frames_after_a_lost_fragment_are_still_used(tmp_path, sound):
    path = write(tmp_path / 'x.mp4', sound=sound)
    without(path, *fragments(path)[1])
    assert assert_never_shifted(path) == {*range(GOP), *range(2 * GOP, COUNT)}
    assert open_video(path).data_errors == (
        f'{path}: frames {GOP} to {2 * GOP - 1}: its place in the file is damaged',
    )


def test_without_the_first_fragment_no_frame_is_numbered(tmp_path):
    path = write(tmp_path / 'x.mp4')
    without(path, *fragments(path)[0])
    assert assert_never_shifted(path) == set()
    assert (
        'the file lacks its beginning, and the rest cannot be' in open_video(path).data_errors[0]
    )


def test_missing_fragments_of_sound_are_not_a_loss(tmp_path):
    whole = write(tmp_path / 'x.mp4', f'{RELATIVE}+separate_moof')
    of_sound = [pair for pair in fragments(whole) if not has_video(whole, pair)]
    assert len(of_sound) == 3
    for pair in of_sound[:-1]:
        path = tmp_path / f'{pair[0]}.mp4'
        path.write_bytes(whole.read_bytes())
        without(path, *pair)
        assert_whole(path)


@pytest.mark.parametrize(
    ('more', 'is_seen'),
    [('', True), ('+skip_trailer', False), ('+skip_trailer+global_sidx', True)],
)
@pytest.mark.parametrize('sound', [False, True])
def test_a_missing_last_fragment_is_detected_with_an_index(tmp_path, more, is_seen, sound):
    """Without an index it cannot be detected; the documentation lists that case."""
    path = write(tmp_path / 'x.mp4', RELATIVE + more, sound)
    without(path, *fragments(path)[-1])
    assert bool(open_video(path).data_errors) == is_seen
    found, _ = read(path)
    assert found == {n: n for n in range(2 * GOP)}


@pytest.mark.parametrize(
    ('flags', 'numbers'),
    [
        (RELATIVE, [0, 1, 2]),
        (RELATIVE, [7, 7, 7]),
        (RELATIVE, [5, 10, 15]),
        (f'{RELATIVE}+separate_moof', [1, 1, 2, 2, 3, 3]),
        (f'{RELATIVE}+separate_moof', [1, 51, 2, 52, 3, 53]),
    ],
)
def test_unusual_sequence_numbers_are_not_a_loss_if_the_times_match(tmp_path, numbers, flags):
    path = write(tmp_path / 'x.mp4', flags)
    renumber(path, numbers)
    assert_whole(path)
    without(path, *fragments(path)[1 + ('separate' in flags)])
    assert_never_shifted(path)


@pytest.mark.parametrize('flags', [RELATIVE, f'{RELATIVE}+separate_moof'])
def test_without_times_the_sequence_numbers_of_fragments_are_used(tmp_path, flags):
    path = write(tmp_path / 'x.mp4', flags)
    without_times(path)
    assert_whole(path)
    without(path, *fragments(path)[1 + ('separate' in flags)])
    believed = assert_never_shifted(path)
    assert set(range(GOP - 3)) <= believed <= set(range(GOP)), (
        'lost frames may be displayed earlier'
    )


def test_other_boxes_between_fragments_are_not_a_loss(tmp_path):
    path = write(tmp_path / 'x.mp4')
    boxes_between = (
        struct.pack('>I4sQ', 1, b'free', 24) + bytes(8) + struct.pack('>I4s', 8, b'styp')
    )
    content = path.read_bytes()
    for start, _ in reversed(fragments(path)):
        content = content[:start] + boxes_between + content[start:]
    rewrite(path, content)
    assert_whole(path)


@pytest.mark.parametrize('damage', [b'junk', b'\0\0\0\0'])
@pytest.mark.parametrize('lost', [1, 2])
def test_an_unrecognized_fragment_does_not_shift_numbers(tmp_path, damage, lost):
    path = write(tmp_path / 'x.mp4')
    overwrite(path, fragments(path)[lost][0] + 4, damage)
    assert set(range(GOP)) <= assert_never_shifted(path)


def test_a_pause_of_the_recorder_is_not_a_loss(tmp_path):
    times = [*range(GOP), *range(5 * GOP, 7 * GOP)]
    path = write(tmp_path / 'x.mp4', f'{RELATIVE}+frag_discont', sound=False, times=times)
    assert_whole(path)


def test_a_lost_fragment_of_an_ismv_file_does_not_shift_numbers(tmp_path):
    whole = write_video(tmp_path / 'x.ismv', COUNT, sound=True)
    assert_whole(whole)
    assert not any(b'tfdt' in whole.read_bytes()[slice(*pair)] for pair in fragments(whole))
    assert [name for name, _, _ in boxes(whole)].count(b'moof') > 2
    for number, pair in enumerate(fragments(whole)[:-2]):
        if has_video(whole, pair):
            path = tmp_path / f'{number}.ismv'
            path.write_bytes(whole.read_bytes())
            without(path, *pair)
            assert_never_shifted(path)
