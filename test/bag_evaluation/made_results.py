# SPDX-License-Identifier: Apache-2.0
"""Results of `evaluate_bag` and their bags, for tests of the report and of `compare`."""

import numpy as np

from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.evaluation.metrics import count_frame, summarize
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import IMAGE, header

START_NS = 10**18
STEP_NS = 40_000_000
NUMBERS = ('mIoU', 'mNSD', 'score', 'floor', 'class_mIoU', 'class_mNSD', 'pooled_class_IoU',
           'present_class_IoU', 'mean_present_class_IoU')  # fmt: skip


def masks(frames, shift=2, size=(45, 80)):
    """Return masks of two moving classes; the prediction is off by `shift` pixels."""
    for number in range(frames):
        truth = np.zeros(size, np.uint8)
        left = 5 + int(20 * (1 + np.sin(number / 9)))
        truth[10:20, left : left + 15] = 4
        truth[25:40, left + 4 : left + 12] = 3 if number % 20 < 15 else 0
        yield truth, np.roll(truth, shift, 1)


def frame(number, truth, predicted, **changes):
    counts = count_frame(truth, predicted)
    made = {
        'stamp_ns': START_NS + number * STEP_NS,
        'received_ns': START_NS + number * STEP_NS + 3_000_000,
        'iou': counts.iou.tolist(),
        'nsd': counts.nsd.tolist(),
        'truth': np.setdiff1d(truth, [0]).tolist(),
        'predicted': np.setdiff1d(predicted, [0, 255]).tolist(),
        'confidence': 0.9 - 0.1 * (number % 7 == 0),
        'no_decision': float(np.mean(predicted == 255)),
        'instruments': [4, 10],
        'tracks': [2, 1],
        'opening_deg': [None, 31.5],
        'shaft_width_px': [None, 60.0],
        'needle_radius_px': [44.0, None],
        'fate': 'mask',
        'ms': {'network': 10.0},
    }
    return counts, {**made, **changes}


def unscored(number, **changes):
    truth, predicted = next(masks(1))
    _, made = frame(number, truth, predicted)
    return {**made, 'iou': None, 'nsd': None, 'truth': None, **changes}


def bag_result(over_time, counts=(), **changes):
    """Return the result of a bag; without counts it has no ground truth."""
    summary = summarize({'bag': counts}) if counts else {}
    if counts:
        summary |= summary['videos']['bag']
    scored = sum(item['iou'] is not None for item in over_time)
    made = {
        'frames': len(over_time),
        'with_ground_truth': scored,
        **{outcome: sum(item['fate'] == outcome for item in over_time)
           for outcome in ('dropped', 'failed', 'rejected')},
        'ground_truth': {'messages': scored, 'matched': scored, 'unmatched': 0, 'ambiguous': 0,
                         'unusable': 0} if counts else None,
        'frames_by_stamp': {'zero': 0, 'equal': 0, 'backward': 0},
        **{key: summary.get(key) for key in NUMBERS},
        'latency_ms': {'network': {'p50': 10.0, 'p95': 12.0, 'p99': 13.0}},
        'elapsed_s': 2.0,
        'identity': {'size_bytes': 10**6, 'start_ns': START_NS, 'duration_ns': 10**9,
                     'topics': {}, 'fingerprint': 'ab' * 32},
        'mask_sha256': 'cd' * 32,
        'masks': len(over_time),
        'damage': None,
        'troubles': [],
        'over_time': over_time,
    }  # fmt: skip
    return {**made, **changes}


def result(bags, **changes):
    """Return the contents of a file; the totals are those of the first bag."""
    first = next(iter(bags.values()))
    alone = ('identity', 'masks', 'damage', 'troubles', 'over_time', 'strangers')
    made = {
        'format': 1,
        'kind': 'lockstep',
        'model': {'name': 'demo', 'weights_sha256': 'ef' * 32, 'runtime': 'torch on cpu',
                  'threads': 2},
        'options': {'image_topic': '/image', 'ground_truth_topic': '/truth', 'mask_topic': None,
                    'tolerance_ms': 0.0, 'roi': None, 'least_area': 0.0002},
        'classes': list(CLASS_NAMES[1:]),
        **{key: value for key, value in first.items() if key not in alone},
        'bags': bags,
        'unreadable': {},
    }  # fmt: skip
    return {**made, **changes}


def made_bag(frames=12, shift=2, **changes):
    pairs = [frame(number, *pair) for number, pair in enumerate(masks(frames, shift))]
    return bag_result([made for _, made in pairs], [counts for counts, _ in pairs], **changes)


def write_bags(folder, frames=12, shift=2):
    """Write bags of images and truths, and of predicted masks."""
    with BagWriter(folder / 'bag') as bag, BagWriter(folder / 'masks.mcap') as predicted:
        for number, (truth, mask) in enumerate(masks(frames, shift)):
            head = header(START_NS + number * STEP_NS)
            image = np.full((*truth.shape, 3), (200, 10 * number, 0), np.uint8)
            for writer, topic, plane in (
                (bag, '/image', image), (bag, '/truth', truth), (predicted, '/mask', mask)
            ):  # fmt: skip
                message = image_to_msg(plane, head)
                writer.write(topic, IMAGE, message, START_NS + number * STEP_NS)
    return folder / 'bag', folder / 'masks.mcap'
