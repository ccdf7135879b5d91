# SPDX-License-Identifier: Apache-2.0
"""
What `evaluate_bag` writes to its JSON file; one form for one bag and for many.

At the top:

- `format`: FORMAT, raised where a reader would have to change.
- `kind`: `lockstep`, every image through the model; or `recorded`, masks that a bag held.
- `model`: `name`, `weights_sha256`, `runtime` (for people), `threads` (torch's, on the CPU);
  None for `recorded`.
- `options`: what was asked for and decides the result: `image_topic`, `ground_truth_topic` (or
  None), `mask_topic` (`recorded`; else None), `tolerance_ms`, `roi` ([x, y, width, height] or
  None), `least_area`.
- `classes`: names of the classes 1 to 9; wherever nine values stand, they are in this order.
- the numbers of all bags together, by the keys below; scores are the official mean over bags,
  of those that have a ground truth, as over the videos of a data set. `mask_sha256` is the bag's
  own of one bag, and of several the SHA-256 of their hexadecimal ones, sorted by name, in one
  piece (None where any failed).
- `bags`: name to the numbers of the bag, by the same keys and a few more. Names are those of the
  paths; of bags that have the same name, with as many parents as tell them apart.
- `unreadable`: name to text, of bags that could not be evaluated at all.

Numbers, for all bags and for each:

- `frames`: images in the bag, all of which were looked at.
- `with_ground_truth`: frames that were scored.
- `dropped`: images without a mask because a newer one came: 0 for `lockstep`, by construction;
  for `recorded` the images that have no mask of their stamp.
- `failed`: images on which the network failed: the mask is 255 all over, as the node's is.
- `rejected`: messages of the image topic that no picture could be made of; they have no mask.
- `ground_truth`: `messages`, `matched`, `unmatched` (no image of that stamp), `ambiguous` (the
  stamp is zero or not the only one of its kind, of the image or of the truth), `unusable`
  (matched, but no mask, of another size, or with values that are no class); None without a topic.
- `frames_by_stamp`: frames whose stamp is `zero`, `equal` to that of another frame, or lies
  before that of the frame in front of it (`backward`).
- `mIoU`, `mNSD`, `score` (official; a frame with a truth and without a mask scores 0 in a class),
  `floor` (the same three for a prediction of nothing but background), `class_mIoU`, `class_mNSD`
  (nine each), `pooled_class_IoU`, `present_class_IoU` (nine each, None where the class never
  occurs), `mean_present_class_IoU`; all None where no frame was scored.
- `mIoU_of_masks`, `mNSD_of_masks`, `score_of_masks`: `recorded` only, the same of the frames
  that have a mask, those without left out.
- `latency_ms`: stage to `p50`, `p95`, `p99`, in milliseconds, over frames. Of `lockstep`: STAGES;
  they overlap, so their sum is no time per frame. Of `recorded`: `image_to_mask`, the receive
  time of the mask less that of the image of the same stamp.
- `elapsed_s`: how long the evaluation took, of `bags` each; at the top their sum.

Of each bag besides:

- `identity`: `size_bytes`, `start_ns`, `duration_ns` (by receipt), `topics` (name to `type` and
  `messages`), `fingerprint` (SHA-256 of names, sizes and both ends of the bag's files).
- `mask_sha256`: SHA-256 of the pixels of all masks in order, row by row, which are the data of
  the messages on the output bag's mask topic; `masks`: how many there are.
- `damage`: what of the bag was lost, as text; None where it is whole.
- `troubles`: list of `cause`, `count` and `first` (text) of failed and rejected images, and of
  unusable truths.
- `recorded` only: `strangers`, masks of no image's stamp, or of one that is not the only one.
- `over_time`: one object per frame, in order:

  - `stamp_ns` and `received_ns`: of the image; `stamp_ns` is None where it was rejected.
  - `iou`, `nsd`: nine values each; None where there is no truth.
  - `truth`: classes 1 to 9 that the truth shows; None where there is none.
  - `predicted`: classes 1 to 9 that the mask shows; None where there is no mask.
  - `confidence`: mean over the pixels with a decision, 0 to 1; None where there is none.
  - `no_decision`: share of the pixels whose value is 255; None where there is no mask.
  - `instruments`: the labels of the detections, `[4, 10, 10]` for example (10 is a robotic tool;
    255, no decision); None for `recorded` and where the image was rejected.
  - `fate`: `mask`, `failed`, `rejected` or `dropped`.
  - `ms`: stage to milliseconds.
"""

from typing import Final

FORMAT: Final = 1

STAGES: Final = (
    *('read', 'parse', 'fit', 'network', 'upsample', 'download', 'detections', 'write', 'score'),
)
"""Of a frame's way, in the order of work; the node's, but for the first and the last two."""
