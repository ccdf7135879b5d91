# SPDX-License-Identifier: Apache-2.0
"""The default model: complete, small, correctly documented, and accurate on synthetic scenes."""

from pathlib import Path

import numpy as np

from surgseg_ros.core.labels import CLASPER, CLASS_NAMES, SHAFT, SUCTION, THREAD, WRIST
from surgseg_ros.core.model_folder import read_model
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.metrics import SCORED, count_frame, summarize
from surgseg_ros.synthetic import Scene
from surgseg_ros.training.scoring import Calibration

MODEL = Path(__file__).resolve().parents[2] / 'models/default'


def test_the_model_is_complete_and_documents_its_training_data():
    spec, _ = read_model(MODEL)  # checks the hash
    assert spec.intended_use == 'synthetic'
    model_card = (MODEL / 'README.md').read_text()
    assert 'trained on synthetic scenes alone' in model_card
    assert spec.weights_sha256 in model_card
    assert f'{spec.scores["unseen_scenes"]["raw"]["mIoU"]:.3f}' in model_card


def test_the_model_is_below_25_megabytes():
    assert sum(path.stat().st_size for path in MODEL.rglob('*')) < 25e6


def test_scores_are_well_above_the_floor():
    test = read_model(MODEL)[0].scores['unseen_scenes']
    assert test['raw']['mIoU'] >= test['floor']['mIoU'] + 0.08
    assert test['filtered']['mIoU'] >= test['floor']['mIoU'] + 0.14
    found = test['raw']['present_class_IoU']
    for label in (CLASPER, WRIST, SHAFT, THREAD, SUCTION):
        assert found[label - 1] >= 0.4, label


def test_the_model_card_has_scores_on_real_operations_with_their_floors():
    spec, model_card = read_model(MODEL)[0], (MODEL / 'README.md').read_text()
    for name in ('sar_rarp50', 'endovis18', 'endovis17'):
        scores = spec.scores[name]
        floor = f'{scores["official_miou"]:.3f} | {scores["official_miou_floor"]:.3f}'
        assert f'| official mIoU | {floor} |' in model_card
        assert scores['tools_iou'] >= 0.35


def test_the_model_card_names_each_class_that_the_model_does_not_find():
    spec, model_card = read_model(MODEL)[0], (MODEL / 'README.md').read_text()
    text = model_card[model_card.index('## What it does not find') :].lower()
    found = spec.scores['unseen_scenes']['raw']['present_class_IoU']
    missing = [CLASS_NAMES[label] for label in SCORED if found[label - 1] < 0.1]
    assert all(name.split()[-1].rstrip('s') in text for name in missing), missing


def test_the_confidence_is_calibrated():
    spec = read_model(MODEL)[0]
    before, after = (
        spec.scores['unseen_scenes']['calibration'][key] for key in ('before', 'after')
    )
    assert after['ece'] <= 0.03
    assert after['instrument_ece'] < before['instrument_ece']  # on predicted instruments


def test_the_confidence_is_calibrated_on_unseen_scenes():
    """On a few scenes; the card has many. Computed as in the node, at the size of the image."""
    calibration = Calibration(Segmenter.load(MODEL, 'cpu', 'torch'))
    for seed in range(920_001, 920_007):
        frame = Scene(seed, size=(720, 1280), rate_hz=15.0).frame(10)
        calibration.add(frame.image, frame.mask)
    assert calibration.summarize()['after']['ece'] <= 0.04


def test_the_model_segments_unseen_scenes():
    segmenter = Segmenter.load(MODEL, 'cpu', 'torch')
    frames = {}
    for seed in (910_001, 910_002, 910_003):
        frame = Scene(seed, size=(360, 640), rate_hz=15.0).frame(10)
        predicted = segmenter.segment(frame.image).mask
        frames[str(seed)] = [count_frame(frame.mask, predicted, edges=False)]
    summary = summarize(frames)
    assert summary['mIoU'] > summary['floor']['mIoU'] + 0.03
    assert np.mean(summary['mean_present_class_IoU']) > 0.25
