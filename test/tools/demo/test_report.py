# SPDX-License-Identifier: Apache-2.0
"""The report of a demo session."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from surgseg_ros.bags.writing import START_TIME_NS, write_image_bag
from surgseg_ros.core.detections import without_decision
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import detections_to_cdr, header, to_cdr
from tools.demo.report import report, table
from tools.demo.session import Recorded
from tools.demo.source import IMAGE_TOPIC, Source

FRAMES = 4
SIZE = (48, 64)


def stamp(index: int) -> int:
    return START_TIME_NS + index * 10**8


def truth(index: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20, 10 : 20 + index] = 4
    return mask


@pytest.fixture
def source(tmp_path: Path) -> Source:
    image = np.full((*SIZE, 3), 90, np.uint8)
    frames = ((stamp(index), image, truth(index)) for index in range(FRAMES))
    write_image_bag(tmp_path / 'bag', frames)
    return Source(tmp_path / 'bag', 10.0, FRAMES, 'a small scene')


def heard(index: int, mask: np.ndarray, stamp_ns: int | None = None) -> list[Recorded]:
    """Make an image, its mask and its detections, as the recorder returns them."""
    head = header(stamp(index) if stamp_ns is None else stamp_ns, 'endoscope')
    image = to_cdr(image_to_msg(np.zeros((*SIZE, 3), np.uint8), head))
    found = detections_to_cdr(head, without_decision(SIZE))
    return [
        Recorded(IMAGE_TOPIC, image[:256], sent_ns=0, received_ns=1),
        Recorded('mask', to_cdr(image_to_msg(mask, head)), 2, received_ns=30_000_000),
        Recorded('detections', found, 2, 3),
    ]


def test_perfect_masks_score_1_and_their_latency_is_reported(
    source: Source, tmp_path: Path
) -> None:
    recorded = [message for i in range(FRAMES) for message in heard(i, truth(i))]

    outcome = report(source, recorded, tmp_path)

    assert (outcome.masks, outcome.unmatched, outcome.detections) == (FRAMES, 0, FRAMES)
    assert outcome.latencies_ms == [30.0] * FRAMES
    assert outcome.scores is not None
    assert outcome.scores['mIoU'] == 1
    assert outcome.scores['floor']['mIoU'] == pytest.approx(8 / 9)
    images = sorted(tmp_path.glob('frame_*.png'))
    assert len(images) == FRAMES
    assert cv2.imread(str(images[0])).shape == (360, 3 * 480, 3)
    assert cv2.VideoCapture(str(tmp_path / 'overlay.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


def test_a_missing_mask_scores_0_and_unmatched_masks_are_counted(
    source: Source, tmp_path: Path
) -> None:
    recorded = [message for i in range(FRAMES - 1) for message in heard(i, truth(i))]
    recorded += heard(0, truth(0), stamp_ns=77)  # matches no frame
    recorded += heard(3, truth(3)[:20])  # of another size

    outcome = report(source, recorded, tmp_path)

    assert (outcome.masks, outcome.unmatched) == (FRAMES - 1, 2)
    assert outcome.scores is not None
    assert outcome.scores['mIoU'] == pytest.approx((FRAMES - 1) / FRAMES)
    rows = table(source, outcome, node_hz=5.0, rate=0.35, dropped=1, status='degraded')
    text = ' '.join(rows.split())
    assert 'frames without a mask 1 (1 dropped by the node for a newer one)' in text
    assert 'playback rate 3.5 Hz' in text
    assert 'final status of the node degraded' in text


def test_frames_of_the_video_without_a_mask_are_marked(tmp_path: Path) -> None:
    image = np.full((180, 320, 3), 90, np.uint8)
    frames = ((stamp(index), image, None) for index in range(2))
    write_image_bag(tmp_path / 'bag', frames)
    recorded = heard(0, np.zeros((180, 320), np.uint8))[:2]  # image and mask

    report(Source(tmp_path / 'bag', 10.0, 2, 'a small scene'), recorded, tmp_path)

    video = cv2.VideoCapture(str(tmp_path / 'overlay.mp4'))
    (_, with_mask), (_, without) = video.read(), video.read()
    assert with_mask.max() < 150
    assert without.max() > 200
