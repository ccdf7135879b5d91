# SPDX-License-Identifier: Apache-2.0
"""Cached frames: resized as by the Segmenter, made once, and never incomplete."""

import errno
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.preprocessing import fit, prepare
from surgseg_ros.training import frame_cache
from surgseg_ros.training.dataset import DatasetError, find_samples
from surgseg_ros.training.frame_cache import CachedFrames

SIZE = (64, 96)
COLOURS = {'target': [130, 70, 70], 'power': 0.6}


def folders(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def test_frames_are_fitted_as_the_segmenter_does(data, tmp_path):
    samples = find_samples(data)
    frames = CachedFrames.prepare(samples, SIZE, 'letterbox', tmp_path / 'cache')
    assert len(frames) == len(samples) == 6
    image, _ = samples[1].read()
    expected = fit(torch.from_numpy(image)[None], SIZE, 'letterbox')[0].numpy()
    np.testing.assert_array_equal(frames.images[1], expected)
    assert (frames.masks[1][58:] == 255).all()
    assert frames.class_px.shape == (6, 10)
    assert frames.class_px[1, 3] == (frames.masks[1] == 3).sum() > 0
    assert frames.class_px[1].sum() == 58 * 96


def test_a_second_run_decodes_nothing(data, tmp_path, monkeypatch):
    samples = find_samples(data)
    first = CachedFrames.prepare(samples, SIZE, 'letterbox', tmp_path / 'cache')
    monkeypatch.setattr(frame_cache, 'fit', None)
    again = CachedFrames.prepare(samples, SIZE, 'letterbox', tmp_path / 'cache')
    np.testing.assert_array_equal(first.images, again.images)
    assert len(folders(tmp_path / 'cache')) == 1


def test_other_inputs_get_another_folder(data, tmp_path):
    samples, cache = find_samples(data), tmp_path / 'cache'
    CachedFrames.prepare(samples, SIZE, 'letterbox', cache)
    CachedFrames.prepare(samples, SIZE, 'stretch', cache)
    CachedFrames.prepare(samples, (32, 96), 'stretch', cache)
    CachedFrames.prepare(samples[::-1], SIZE, 'stretch', cache)
    CachedFrames.prepare(samples, SIZE, 'stretch', cache, COLOURS)
    os.utime(samples[0].mask, ns=(1, 1))
    CachedFrames.prepare(samples, SIZE, 'stretch', cache)
    assert len(folders(cache)) == 6


def test_colors_are_preprocessed_as_by_the_segmenter_if_enabled(data, tmp_path):
    samples = find_samples(data)
    spec = ModelSpec(name='any', input_size=SIZE, colour_normalization=COLOURS)
    frames = CachedFrames.prepare(samples, SIZE, 'letterbox', tmp_path / 'cache', COLOURS)
    image = torch.from_numpy(samples[1].read()[0])[None]
    np.testing.assert_array_equal(frames.images[1], prepare(image, spec)[0].numpy())
    assert (frames.images[1] != fit(image, SIZE, 'letterbox')[0].numpy()).any()


def test_incomplete_files_of_an_interrupted_run_are_not_used(data, tmp_path, monkeypatch):
    samples, cache = find_samples(data), tmp_path / 'cache'
    with monkeypatch.context() as patch:
        # Like kill -9: nothing is cleaned up.
        patch.setattr(frame_cache.shutil, 'rmtree', lambda *_, **__: None)
        patch.setattr(frame_cache, 'fit', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            CachedFrames.prepare(samples, SIZE, 'letterbox', cache)
    (leftover,) = folders(cache)
    frames = CachedFrames.prepare(samples, SIZE, 'letterbox', cache)
    assert frames.images.any()
    assert not leftover.exists()
    assert len(folders(cache)) == 1


def test_error_names_a_damaged_image_and_nothing_is_left(data, tmp_path):
    samples = find_samples(data)
    samples[3].image.write_bytes(b'no image')
    with pytest.raises(DatasetError, match=str(samples[3].image)):
        CachedFrames.prepare(samples, SIZE, 'letterbox', tmp_path / 'cache')
    assert folders(tmp_path / 'cache') == []


def test_a_full_disk_is_reported_with_a_remedy(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(frame_cache.os, 'posix_fallocate', full)
    with pytest.raises(DatasetError, match=r'No space left.*free .* GB there, or name another'):
        CachedFrames.prepare(find_samples(data), SIZE, 'letterbox', tmp_path / 'cache')
    assert folders(tmp_path / 'cache') == []


def test_error_names_an_image_that_disappeared(data, tmp_path):
    samples = find_samples(data)
    samples[2].image.unlink()
    with pytest.raises(DatasetError, match=str(samples[2].image)):
        CachedFrames.prepare(samples, SIZE, 'letterbox', tmp_path / 'cache')


def test_several_processes_at_once_share_one_folder(data, tmp_path):
    samples, cache = find_samples(data), tmp_path / 'cache'
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool:
        jobs = [
            pool.submit(CachedFrames.prepare, samples, SIZE, 'letterbox', cache) for _ in range(2)
        ]
        one, other = (job.result() for job in jobs)
    np.testing.assert_array_equal(one.images, other.images)
    assert len(folders(cache)) == 1


def test_frames_are_passed_to_workers_by_path(data, tmp_path):
    frames = CachedFrames.prepare(find_samples(data), (256, 256), 'stretch', tmp_path / 'cache')
    pickled = pickle.dumps(frames)
    assert len(pickled) < 10_000 < frames.images.nbytes
    np.testing.assert_array_equal(pickle.loads(pickled).masks, frames.masks)
