# SPDX-License-Identifier: Apache-2.0
"""
The content of the JSON file of `evaluate_bag`, which is the same for one bag and for many.

At the top:

- `format`: FORMAT, increased when readers have to change.
- `kind`: `lockstep`, every image through the model; or `recorded`, masks that a bag held.
- `model`: `name`, `weights_sha256`, `runtime` (a description), `precision` (f32, bf16, f16 or
  int8), `threads` (torch's, on the CPU); None for `recorded`.
- `options`: those that determine the result: `image_topic`, `ground_truth_topic` (or
  None), `mask_topic` (`recorded`; else None), `tolerance_ms`, the parameters `device`, `runtime`
  and `precision` (for what was used see `model`), `roi` ([x, y, width, height] or None), and the
  settings of the pipeline: `roi_mode`, `least_area`, `min_confidence`, `min_detection_score`,
  `steady_frames`, `steady_sure`, `track_lost_ms`, `gates` (name to action and limit).
- `classes`: names of the classes 1 to 9; all lists of nine values are in this order.
- the numbers of all bags together, by the keys below; scores are the official mean over the bags
  that have a ground truth, as over the videos of a data set. `mask_sha256` is that of the bag if
  there is one, else the SHA-256 of the bags' hexadecimal hashes, sorted by name and concatenated
  (None if any failed).
- `bags`: name to the numbers of the bag, by the same keys and a few more. Names are those of the
  paths; bags of the same name have as many parents in front as distinguish them.
- `unreadable`: name to error text, of bags of which nothing could be evaluated.

Numbers, for all bags and for each:

- `frames`: images in the bag, all of which were processed.
- `with_ground_truth`: frames that were scored.
- `dropped`: images without a mask because a newer one came: 0 for `lockstep`, by construction;
  for `recorded` the images that have no mask of their stamp.
- `failed`: images on which the network failed: the whole mask is 255, as in the node; for
  `recorded` all such masks, for any reason.
- `undecided`: images for which a quality gate withheld the decision: the whole mask is 255. 0
  for `recorded`, where `failed` includes them.
- `rejected`: messages of the image topic that could not be converted to an image, and have no
  mask. For `recorded`, which does not read images, those whose message on the mask topic is not a
  mask.
- `ground_truth`: `messages`, `matched`, `unmatched` (no image of that stamp), `ambiguous` (the
  stamp is zero, or not unique among the images or the truths), `unusable` (matched, but not a
  mask, of another size, or with values that are not a class); None without a topic.
- `frames_by_stamp`: frames whose stamp is `zero`, `equal` to that of another frame, or lies
  before that of the previous frame (`backward`).
- `mIoU`, `mNSD`, `score` (official; a frame with a truth and without a mask scores 0 in a class),
  `floor` (the same three for a prediction of background only), `class_mIoU`, `class_mNSD`
  (nine each), `pooled_class_IoU`, `present_class_IoU` (nine each, None where the class never
  occurs), `mean_present_class_IoU`; all None where no frame was scored.
- `mIoU_of_masks`, `mNSD_of_masks`, `score_of_masks`: `recorded` only, the same over the frames
  that have a mask.
- `latency_ms`: stage to `p50`, `p95`, `p99`, in milliseconds, over frames. Of `lockstep`: STAGES;
  they overlap, so their sum is not the time per frame. Of `recorded`: `image_to_mask`, the
  receive time of the mask minus that of the image of the same stamp.
- `elapsed_s`: how long the evaluation of the bag took; at the top the sum.

Additionally for each bag:

- `identity`: `size_bytes`, `start_ns`, `duration_ns` (by receipt), `topics` (name to `type` and
  `messages`), `fingerprint` (SHA-256 of names, sizes and both ends of the bag's files).
- `mask_sha256`: SHA-256 of the pixels of all masks in order, row by row, which are the data of
  the messages on the output bag's mask topic; `masks`: their number.
- `damage`: what is lost of the bag, as text; None if it is complete.
- `troubles`: list of `cause`, `count` and `first` (text) of failed and rejected images, of
  warnings about images that were read (all colour lost, for example), and of unusable truths.
- `recorded` only: `strangers`, masks without an image of their stamp, or with a stamp that is
  not unique.
- `over_time`: one object per frame, in order:

  - `stamp_ns` and `received_ns`: of the image; `stamp_ns` is None where it was rejected.
  - `iou`, `nsd`: nine values each; None where there is no truth.
  - `truth`: classes 1 to 9 that the truth shows; None where there is none.
  - `predicted`: classes 1 to 9 that the mask shows; None where there is no mask.
  - `confidence`: mean probability of the most likely class over the network's input, at its
    own size, 0 to 1; None where there is no decision, and for `recorded`.
  - `no_decision`: share of the pixels whose value is 255; None where there is no mask.
  - `instruments`: the labels of the detections, `[4, 10, 10]` for example (10 is a robotic tool;
    255, no decision); None for `recorded` and where the image was rejected.
  - `tracks`: the ids of the detections; 0 for one without. None where `instruments` is.
  - `opening_deg`, `shaft_width_px`, `needle_radius_px`: of each detection, the angle between the
    jaws, the width of the shaft at its end, and the radius of the needle's circle; None for one
    without. None where `instruments` is, and where there is no decision.
  - `warnings`: the reasons for which the node would call the mask `degraded`; None for `recorded`
    and where the image was rejected.
  - `reason`: why there is no decision; None where there is one, or no mask.
  - `fate`: `mask`, `failed`, `undecided`, `rejected` or `dropped`.
  - `ms`: stage to milliseconds.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator
from surgseg_ros.bag_evaluation.bag_scan import Matching, count_stamp_anomalies
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.core.timing import percentiles
from surgseg_ros.evaluation.metrics import SCORED, FrameCounts, summarize

FORMAT: Final = 4

STAGES: Final = (
    *('read', 'parse', 'fit', 'network', 'upsample', 'download', 'gates', 'postprocessing'),
    *('detections', 'instruments', 'write', 'score'),
)
"""Stages of a frame, in order; as in the node, except for the first and the last two."""

IMAGE_TO_MASK: Final = 'image_to_mask'

_COUNTED: Final = (*('frames', 'with_ground_truth', 'dropped', 'failed', 'undecided', 'rejected'),)
_OF_SUMMARY: Final = (
    *('mIoU', 'mNSD', 'score', 'floor'),
    *('pooled_class_IoU', 'present_class_IoU', 'mean_present_class_IoU'),
)
_OF_VIDEO: Final = ('class_mIoU', 'class_mNSD')


class BagResult(NamedTuple):
    """
    The results of a bag.

    :param numbers: values as in the JSON file.
    :param counts: counts of its frames with a truth, in order.
    """

    numbers: dict[str, Any]
    counts: list[FrameCounts]


def scores(counts: Mapping[str, Sequence[FrameCounts]]) -> dict[str, Any]:
    """
    Compute the scores from the counts.

    :param counts: maps a bag to the counts of its frames; bags without frames are left out.
    :return: the official and the additional scores; all None if there is no frame.
    """
    scored = {name: frames for name, frames in counts.items() if frames}
    if not scored:
        return dict.fromkeys((*_OF_SUMMARY, *_OF_VIDEO))
    summary = summarize(scored)
    videos = summary['videos'].values()
    means = {
        key: [math.fsum(values) / len(videos) for values in zip(*(video[key] for video in videos))]
        for key in _OF_VIDEO
    }
    return {key: summary[key] for key in _OF_SUMMARY} | means


def scores_of_masks(counts: Mapping[str, Sequence[FrameCounts]]) -> dict[str, Any]:
    """
    Compute the scores without frames that have no mask, which officially score 0.

    :param counts: bag to the counts of its frames.
    :return: the official scores of the other frames, with the suffix `_of_masks`.
    """
    found = scores({name: [x for x in of_bag if not x.missing] for name, of_bag in counts.items()})
    return {f'{key}_of_masks': found[key] for key in ('mIoU', 'mNSD', 'score')}


def ground_truth_numbers(
    messages: int, matching: Matching, accumulator: FrameAccumulator
) -> dict[str, int]:
    """
    Count the outcomes of the truths.

    :param messages: number of truths.
    :param matching: assignment of truths to images.
    :param accumulator: has the number of unusable truths.
    :return: value of `ground_truth`.
    """
    return {
        'messages': messages,
        'matched': len(matching.of_image),
        'unmatched': matching.unmatched,
        'ambiguous': matching.ambiguous,
        'unusable': accumulator.unusable,
    }


def make_result(
    accumulator: FrameAccumulator,
    counts: list[FrameCounts],
    ground_truth: Mapping[str, int] | None,
    identity: Mapping[str, Any],
    elapsed_s: float,
) -> BagResult:
    """
    Collect the values of a bag.

    :param accumulator: accumulator of its frames, finished.
    :param counts: counts of the frames with a truth.
    :param ground_truth: outcomes of the truths.
    :param identity: identity of the bag.
    :param elapsed_s: duration of the evaluation.
    :return: the result.
    """
    frames = accumulator.over_time
    numbers = {
        'frames': len(frames),
        'with_ground_truth': len(counts),
        **{outcome: accumulator.count_outcomes(outcome) for outcome in _COUNTED[2:]},
        'ground_truth': ground_truth and dict(ground_truth),
        'frames_by_stamp': count_stamp_anomalies([frame['stamp_ns'] for frame in frames]),
        **scores({'': counts}),
        'latency_ms': _latencies(frames),
        'elapsed_s': elapsed_s,
        'identity': {**identity, **_duration(frames)},
        'mask_sha256': accumulator.mask_sha256,
        'masks': accumulator.masks,
        'damage': accumulator.damage,
        'troubles': list(accumulator.problems.values()),
        'over_time': frames,
    }
    return BagResult(numbers, counts)


def _duration(frames: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    received_ns = [frame['received_ns'] for frame in frames]
    start_ns = min(received_ns, default=0)
    return {'start_ns': start_ns, 'duration_ns': max(received_ns, default=0) - start_ns}


def merge(
    results: Mapping[str, BagResult],
    unreadable: Mapping[str, str],
    model: Mapping[str, Any] | None,
    options: Options,
) -> dict[str, Any]:
    """
    Create the content of the whole file.

    :param results: results by name of the bag.
    :param unreadable: name to the reason, for bags that could not be evaluated.
    :param model: the model that made the masks, if known.
    :param options: options of the evaluation.
    :return: see the module's docstring.
    """
    bags = {name: results[name].numbers for name in sorted(results)}
    each = list(bags.values())
    recorded = options.mask_topic is not None
    truths = [numbers['ground_truth'] for numbers in each if numbers['ground_truth'] is not None]
    return {
        'format': FORMAT,
        'kind': 'recorded' if recorded else 'lockstep',
        'model': model and dict(model),
        'options': options.described(),
        'classes': [CLASS_NAMES[label] for label in SCORED],
        **_sums(each, _COUNTED),
        'ground_truth': _sums(truths, truths[0]) if truths else None,
        'frames_by_stamp': _sums(
            [numbers['frames_by_stamp'] for numbers in each], count_stamp_anomalies([])
        ),
        **scores({name: results[name].counts for name in bags}),
        **(scores_of_masks({name: results[name].counts for name in bags}) if recorded else {}),
        'latency_ms': _latencies([frame for numbers in each for frame in numbers['over_time']]),
        'elapsed_s': math.fsum(numbers['elapsed_s'] for numbers in each),
        'mask_sha256': None if unreadable else _joined([x['mask_sha256'] for x in each]),
        'bags': bags,
        'unreadable': dict(sorted(unreadable.items())),
    }


def _sums(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> dict[str, int]:
    return {key: sum(row[key] for row in rows) for key in keys}


def _joined(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()


def _latencies(frames: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        stage: percentiles(times)._asdict()
        for stage in (*STAGES, IMAGE_TO_MASK)
        if (times := [frame['ms'][stage] for frame in frames if stage in frame['ms']])
    }
