# SPDX-License-Identifier: Apache-2.0
"""The order of views depends only on the seed, with rare classes oversampled."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from surgseg_ros.training.crop_dataset import Augmentation, CropDataset, EpochSampler

PLAIN = Augmentation(flip=0, scale=0, rotation_deg=0, colour=0, smoke=0, blur=0, noise=0, focus=0)


def numbered(count=6, size=(64, 64)):
    """Make frames whose pixels are their number, all background."""
    images = np.empty((count, *size, 3), np.uint8)
    images[:] = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    masks = np.zeros((count, *size), np.uint8)
    return frames(images, masks)


def frames(images, masks):
    px = np.array([np.bincount(mask.ravel(), minlength=10)[:10] for mask in masks])

    class Frames(SimpleNamespace):
        def __len__(self):
            return len(images)

    return Frames(images=images, masks=masks, class_px=px)


def test_each_epoch_has_every_frame_once_in_another_order():
    crops = CropDataset(numbered(), PLAIN, (32, 32), seed=1)
    shown = [int(crops[n][0][0, 0, 0]) for n in range(18)]
    epochs = [tuple(shown[start : start + 6]) for start in (0, 6, 12)]
    assert all(sorted(one) == [0, 1, 2, 3, 4, 5] for one in epochs)
    assert len(set(epochs)) > 1


def test_a_view_depends_only_on_seed_and_number():
    data = numbered()
    data.masks[2, 5:9, 5:9] = 4
    data = frames(data.images, data.masks)
    first = CropDataset(data, Augmentation(), (32, 32), seed=1)
    expected = [first[n] for n in range(10)]
    again = CropDataset(data, Augmentation(), (32, 32), seed=1)
    for number in (7, 3, 3, 9, 0):
        for ours, theirs in zip(again[number], expected[number], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    other = CropDataset(data, Augmentation(), (32, 32), seed=2)
    assert any((other[n][0] != expected[n][0]).any() for n in range(10))


def test_focus_samples_rare_classes_as_often_as_common_ones():
    data = numbered(20, (128, 128))
    data.masks[:, :64] = 3  # half of every frame
    data.masks[7, 120:124, 3:7] = 4  # 16 pixels of one frame in 20
    data.masks[8, 0, :3] = 5  # too few pixels to be sampled
    focused = Augmentation(flip=0, scale=0, rotation_deg=0, focus=1)
    crops = CropDataset(frames(data.images, data.masks), focused, (32, 32), seed=0)
    seen = Counter(label for n in range(200) for label in np.unique(crops[n][1]))
    assert 70 < seen[4] < 115
    assert seen[3] > 70
    assert seen[5] < 5


def test_without_instruments_focus_changes_nothing():
    crops = CropDataset(numbered(), Augmentation(focus=1), (32, 32), seed=0)
    assert len({int(crops[n][0].sum()) for n in range(6)}) > 1


def test_epochs_continue_where_the_last_one_ended():
    sampler = EpochSampler(6)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.extend(sampler)
    assert epochs == list(range(18))


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_share_an_epoch(world):
    parts = []
    for rank in range(world):
        sampler = EpochSampler(6, rank, world)
        sampler.set_epoch(2)
        parts.append([*sampler])
        assert len(sampler) == len(parts[-1]) == 6 // world
    # Interleaved like their batches, they equal what a single process would take.
    assert [number for together in zip(*parts) for number in together] == list(range(12, 18))


def test_rejects_an_epoch_that_cannot_be_divided_among_processes():
    with pytest.raises(ValueError, match='7 crops in an epoch are not a multiple of 2'):
        EpochSampler(7, 0, 2)
