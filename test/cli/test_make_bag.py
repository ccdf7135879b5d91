# SPDX-License-Identifier: Apache-2.0
"""The verb `make_bag`: every frame and mask with its stamp, from each kind of input."""

import cv2
import numpy as np
from drawn_frames import HEIGHT, WIDTH, make_bag, make_image, mask, masks, write_images
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from surgseg_ros.bags.reading import Bag
from surgseg_ros.messages.images import rgb_from_msg
from surgseg_ros.messages.serialization import stamp_ns

IMAGES, TRUTH = '/camera/image_raw', '/camera/ground_truth'
START_NS = 10**18


def read(path, topic):
    with Bag(path) as bag:
        return [message for _, _, message in bag.read([topic])]


def stamps(messages):
    return [stamp_ns(message.header) - START_NS for message in messages]


def test_a_bag_of_a_folder_of_frames_is_read_by_another_library(tmp_path):
    write_images(tmp_path / 'case', 0, 6, 60)
    assert make_bag(tmp_path / 'case', tmp_path / 'bag') == 0
    with (tmp_path / 'bag/bag.mcap').open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        found = [(channel.topic, x) for _, channel, _, x in reader.iter_decoded_messages()]
    assert [topic for topic, _ in found] == [IMAGES] * 3
    for (_, message), number in zip(found, (0, 6, 60), strict=True):
        stamp = message.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == START_NS + round(number / 60 * 1e9)
        assert (message.encoding, message.header.frame_id) == ('rgb8', 'endoscope')
        assert bytes(message.data) == make_image(number).tobytes()


def test_every_frame_of_a_video_is_stamped_at_the_rate_of_the_video(
    tmp_path, write_video, frame_number
):
    write_video(tmp_path / 'clip.avi', 7)
    assert make_bag(tmp_path / 'clip.avi', tmp_path / 'bag') == 0
    found = read(tmp_path / 'bag', IMAGES)
    assert [frame_number(rgb_from_msg(message)) for message in found] == list(range(7))
    assert stamps(found) == [round(number * 1e9 / 60) for number in range(7)]


def test_a_data_set_becomes_one_bag_per_video_with_masks(tmp_path, write_video):
    data = tmp_path / 'data'
    write_images(data / 'video_1/rgb', 0, 6, 12)
    masks(data / 'video_1/segmentation', 0, 12)
    write_images(data / 'video_2_1/frames', 60)
    masks(data / 'video_2_1/segmentation', 60)
    write_video(data / 'video_3/video_left.avi', 8)
    masks(data / 'video_3/segmentation', 0, 7)
    assert make_bag(data, tmp_path / 'out') == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'video_1', 'video_2_1', 'video_3'
    ]  # fmt: skip
    assert stamps(read(tmp_path / 'out/video_1', IMAGES)) == [0, 10**8, 2 * 10**8]
    for video, numbers in {'video_1': (0, 12), 'video_2_1': (60,), 'video_3': (0, 7)}.items():
        truth = read(tmp_path / 'out' / video, TRUTH)
        assert stamps(truth) == [round(number * 1e9 / 60) for number in numbers]
        for message, number in zip(truth, numbers, strict=True):
            assert (message.encoding, message.header.frame_id) == ('mono8', 'endoscope')
            assert np.array_equal(message.data.reshape(HEIGHT, WIDTH), mask(number))


def test_the_folder_of_one_video_becomes_one_bag(tmp_path):
    write_images(tmp_path / 'video_1/rgb', 0, 6)
    masks(tmp_path / 'video_1/segmentation', 6)
    assert make_bag(tmp_path / 'video_1', tmp_path / 'one.mcap') == 0
    assert stamps(read(tmp_path / 'one.mcap', TRUTH)) == [10**8]


def test_masks_without_unpacked_images_are_combined_with_the_video(tmp_path, write_video):
    write_images(tmp_path / 'video_1/rgb', 0, 6)
    masks(tmp_path / 'video_1/segmentation', 0, 3)
    write_video(tmp_path / 'video_1/video_left.avi', 7)
    assert make_bag(tmp_path / 'video_1', tmp_path / 'bag') == 0
    assert len(read(tmp_path / 'bag', IMAGES)) == 7
    assert stamps(read(tmp_path / 'bag', TRUTH)) == [0, 5 * 10**7]


def test_options_are_applied_to_the_bag(tmp_path):
    write_images(tmp_path / 'video_1/rgb', 0, 6, 12)
    masks(tmp_path / 'video_1/segmentation', 6, 12)
    more = ('--storage', 'sqlite3', '--rate', 30, '--start-time', '1700000000.25', '--every', 12)
    names = ('--frame-id', 'left', '--image-topic', '/left', '--ground-truth-topic', '/truth')
    crop = ('--crop', 10, 20, 30, 24)
    assert make_bag(tmp_path / 'video_1', tmp_path / 'bag', *more, *names, *crop) == 0
    assert (tmp_path / 'bag/bag.db3').is_file()
    found, truth = read(tmp_path / 'bag', '/left'), read(tmp_path / 'bag', '/truth')
    start_ns = 1_700_000_000_250_000_000
    assert [stamp_ns(x.header) for x in found] == [start_ns, start_ns + 4 * 10**8]
    assert [stamp_ns(x.header) for x in truth] == [start_ns + 4 * 10**8]
    assert {x.header.frame_id for x in (*found, *truth)} == {'left'}
    part = (slice(20, 44), slice(10, 40))
    assert np.array_equal(rgb_from_msg(found[1]), make_image(12)[part])
    assert np.array_equal(truth[0].data.reshape(24, 30), mask(12)[part])


def test_compressed_images_are_jpeg_and_masks_png_without_loss(tmp_path):
    write_images(tmp_path / 'video_1/rgb', 0)
    masks(tmp_path / 'video_1/segmentation', 0)
    formats = ('--picture-format', 'jpeg', '--mask-format', 'png')
    for quality in (30, 95):
        more = ('--jpeg-quality', quality)
        assert make_bag(tmp_path / 'video_1', tmp_path / str(quality), *formats, *more) == 0
    coarse, fine = (read(tmp_path / q, f'{IMAGES}/compressed')[0] for q in ('30', '95'))
    assert bytes(fine.data[:3]) == b'\xff\xd8\xff'
    assert len(coarse.data) < len(fine.data)
    difference = rgb_from_msg(fine).astype(int) - make_image(0)
    assert np.abs(difference).mean() < 3
    (truth,) = read(tmp_path / '95', TRUTH)
    assert truth.format.startswith('mono8; png')
    decoded = cv2.imdecode(truth.data, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded, mask(0))


def test_the_verb_reports_what_it_wrote(tmp_path, capsys, write_video):
    write_images(tmp_path / 'video_1/rgb', 0, 6, 12)
    masks(tmp_path / 'video_1/segmentation', 0, 6)
    make_bag(tmp_path / 'video_1', tmp_path / 'bag', '--every', 12)
    expected = f'{tmp_path / "bag"}: 2 images, 1 mask (of 2), numbered at 60 Hz\n'
    assert capsys.readouterr().out == expected


def test_reports_a_video_that_is_shorter_than_its_header_states(tmp_path, capsys, write_video):
    write_video(tmp_path / 'clip.avi', 30)
    data = (tmp_path / 'clip.avi').read_bytes()
    (tmp_path / 'clip.avi').write_bytes(data[: len(data) // 2])
    assert make_bag(tmp_path / 'clip.avi', tmp_path / 'bag') == 0
    assert 'declares 30' in capsys.readouterr().out
    assert 0 < len(read(tmp_path / 'bag', IMAGES)) < 30


def test_error_names_a_damaged_image(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    jpeg = cv2.imencode('.jpg', noise)[1].tobytes()
    (tmp_path / 'case').mkdir()
    for number in (0, 6):
        (tmp_path / f'case/{number:09d}.jpg').write_bytes(jpeg)
    half = len(jpeg) // 2
    (tmp_path / 'case/000000006.jpg').write_bytes(jpeg[:half] + jpeg[half + 300 :])
    assert make_bag(tmp_path / 'case', tmp_path / 'bag') == 2
    assert '000000006.jpg' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()
