# SPDX-License-Identifier: Apache-2.0
"""The input of the demo."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import START_TIME_NS
from surgseg_ros.messages.images import rgb_from_msg
from surgseg_ros.messages.serialization import stamp_ns
from tools.demo import source
from tools.demo.source import IMAGE_TOPIC, make_video_bag


def write_video(path: Path, frames: int, rate_hz: float = 10.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate_hz, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), (200, 10 * index, 0), np.uint8))  # BGR
    writer.release()


def test_every_frame_of_a_video_is_in_the_bag_with_its_time(tmp_path: Path) -> None:
    write_video(tmp_path / 'own.avi', frames=5)

    made = make_video_bag(tmp_path / 'bag', tmp_path / 'own.avi')

    assert (made.frames, made.rate_hz) == (5, 10.0)
    with Bag(made.bag) as bag:
        messages = [message for _, _, message in bag.read([IMAGE_TOPIC])]
    assert [stamp_ns(m.header) - START_TIME_NS for m in messages] == [i * 10**8 for i in range(5)]
    red, _, blue = rgb_from_msg(messages[0]).reshape(-1, 3).mean(0)
    assert blue > 150 > 50 > red  # the channels are not swapped


def test_of_a_long_video_the_beginning_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, 'LONGEST_S', 0.4)
    write_video(tmp_path / 'own.avi', frames=9)

    made = make_video_bag(tmp_path / 'bag', tmp_path / 'own.avi')

    assert made.frames == 4
    assert made.note == 'own.avi, its first 0.4 s'


@pytest.mark.parametrize(
    ('content', 'words'),
    [(None, 'does not exist'), (b'', 'not decode'), (b'no video', 'not decode')],
)
def test_error_names_a_file_that_is_not_a_video(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / 'own.mp4'
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ValueError, match=rf'own\.mp4.*{words}'):
        make_video_bag(tmp_path / 'bag', path)
    assert not (tmp_path / 'bag').exists()
