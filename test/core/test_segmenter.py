# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from surgseg_ros.core.labels import CLASS_COUNT, NEEDLE, NO_DECISION
from surgseg_ros.core.model_folder import ModelError, ModelSpec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.core.segmentation import Circle, Roi
from surgseg_ros.core.segmenter import Segmenter

SIZES = [(1, 1), (1, 999), (7, 5), (480, 640), (1024, 1280), (1080, 1920), (1920, 1080), (33, 900)]


class Painter:
    """A fake network: white is needle, black is background."""

    device = torch.device('cpu')
    description = 'painter'
    max_batch_size = 1

    def __call__(self, inputs: Tensor) -> Tensor:
        logits = torch.full((len(inputs), CLASS_COUNT, *inputs.shape[1:3]), -9.0)
        logits[:, 0] = 0.0
        logits[:, NEEDLE] = 8 * (inputs[..., 1] / 255 - 0.5)
        return logits


@pytest.fixture
def painter() -> Segmenter:
    return Segmenter(ModelSpec(name='painter', input_size=(256, 320)), Painter())


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with a white rectangle, and its true mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 5 : height // 2, width // 3 : width - width // 4] = NEEDLE
    return np.repeat(mask[..., None] // NEEDLE * 255, 3, 2), mask


@pytest.mark.parametrize('mode', ['letterbox', 'stretch'])
@pytest.mark.parametrize('size', SIZES)
def test_mask_is_aligned_with_its_image(size: tuple[int, int], mode: str) -> None:
    spec = ModelSpec(name='painter', input_size=(256, 320), fit=mode)
    image, truth = scene(*size)
    result = Segmenter(spec, Painter()).segment(image, confidence=True)
    assert result.mask.shape == size
    assert result.mask.dtype == np.uint8
    assert result.confidence is not None
    assert result.confidence.shape == size
    if min(size) >= 256:
        both, either = (result.mask & truth) > 0, (result.mask | truth) > 0
        assert both.sum() / either.sum() > 0.995
        for axis in (0, 1):
            ends = [np.flatnonzero(m.any(axis))[[0, -1]] for m in (result.mask, truth)]
            assert np.abs(ends[0] - ends[1]).max() <= 1


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    'view',
    [
        lambda a: np.frombuffer(a.tobytes(), np.uint8).reshape(a.shape),
        lambda a: np.pad(a, ((0, 0), (0, 13), (0, 0)))[:, : a.shape[1]],
        lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.dstack([a, a[..., :1]])[..., :3],
    ],
    ids=['read-only', 'padded', 'bgr', 'upside down', 'fortran', 'rgba'],
)
def test_memory_layout_does_not_change_the_result(painter: Segmenter, view: object) -> None:
    image = np.random.default_rng(0).integers(0, 256, (130, 170, 3), dtype=np.uint8)
    seen = view(image)  # type: ignore[operator]
    before = seen.copy()
    assert np.array_equal(painter.segment(seen).mask, painter.segment(image).mask)
    assert np.array_equal(seen, before)


def test_only_the_roi_is_segmented_and_the_rest_is_no_decision(painter: Segmenter) -> None:
    image, _ = scene(200, 300)
    roi = Roi(40, 30, 201, 111)
    whole = painter.segment(image, roi=roi, confidence=True)
    alone = painter.segment(roi.view(image).copy(), confidence=True)
    assert np.array_equal(roi.view(whole.mask), alone.mask)
    assert whole.confidence is not None
    assert alone.confidence is not None
    assert np.array_equal(roi.view(whole.confidence), alone.confidence)
    outside = np.ones(whole.mask.shape, bool)
    roi.view(outside)[:] = False
    assert (whole.mask[outside] == NO_DECISION).all()
    assert not whole.confidence[outside].any()


def test_outside_the_circle_of_a_roi_is_no_decision(painter: Segmenter) -> None:
    roi = Roi(50, 20, 200, 160, Circle(150.0, 100.0, 90.0))
    result = painter.segment(scene(200, 300)[0], roi=roi, confidence=True)
    rows, columns = np.indices((200, 300))
    inside = np.hypot(columns - 150, rows - 100) <= 90
    inside[:20] = inside[180:] = False
    assert np.array_equal(result.mask != NO_DECISION, inside)
    assert result.confidence is not None
    assert not result.confidence[~inside].any()
    assert result.confidence[inside].all()


@pytest.mark.parametrize('roi', [Roi(0, 0, 301, 10), Roi(-1, 0, 10, 10), Roi(0, 0, 0, 10)])
def test_rejects_a_roi_outside_the_image(painter: Segmenter, roi: Roi) -> None:
    with pytest.raises(ValueError, match='reaches beyond the image of 300x200'):
        painter.segment(scene(200, 300)[0], roi=roi)


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
    ],
)
def test_rejects_an_array_that_is_not_an_rgb_image(painter: Segmenter, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match='expected \\(H, W, 3\\) uint8 RGB'):
        painter.segment(image)


def test_the_network_gets_the_preprocessed_image() -> None:
    colours = {'target': [60, 200, 70], 'power': 1.0}
    spec = ModelSpec(name='painter', input_size=(256, 320), colour_normalization=colours)
    dim = scene(480, 640)[0] // 3 + 20  # the rectangle is below half in the input
    assert not Segmenter(replace(spec, colour_normalization={}), Painter()).segment(dim).mask.any()
    assert Segmenter(spec, Painter()).segment(dim).mask.any()


def test_confidence_is_computed_only_on_request(painter: Segmenter) -> None:
    image, _ = scene(64, 64)
    plain, certain = painter.segment(image), painter.segment(image, grid_confidence=True)
    assert (plain.confidence, plain.grid_confidence, certain.confidence) == (None, None, None)
    sure = painter.segment(image, confidence=True).confidence
    assert sure is not None
    expected = 255 / (1 + np.exp(-4) + 8 * np.exp(-13))
    assert abs(int(sure[20, 40]) - expected) <= 1
    assert certain.grid_confidence is not None
    assert certain.grid_confidence.grid.shape == (256, 256), (
        'the part of the input that the image fills'
    )
    assert abs(int(certain.grid_confidence.grid[80, 160]) - expected) <= 1


def test_confidence_is_computed_in_the_roi(painter: Segmenter) -> None:
    roi = Roi(40, 30, 201, 111)
    grid_confidence = painter.segment(
        scene(200, 300)[0], roi=roi, grid_confidence=True
    ).grid_confidence
    assert grid_confidence is not None
    assert grid_confidence.roi == roi
    assert grid_confidence.grid.shape == (177, 320)


def test_images_of_different_sizes_share_a_forward_pass(painter: Segmenter) -> None:
    """A batch gives each image the result it gets alone, with its own roi and size."""
    sizes = []

    class Counted(Painter):
        def __call__(self, inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return super().__call__(inputs)

    images = [scene(200, 300)[0], scene(90, 70)[0], scene(200, 300)[0][::-1]]
    rois = [None, None, Roi(40, 30, 201, 111)]
    together = Segmenter(painter.spec, Counted()).segment_all(images, rois, confidence=True)
    assert sizes == [3]
    for image, roi, result in zip(images, rois, together, strict=True):
        alone = painter.segment(image, roi=roi, confidence=True)
        assert np.array_equal(result.mask, alone.mask)
        assert np.array_equal(result.confidence, alone.confidence)
    plain = painter.segment_all(images)
    assert [(part.mask.shape, part.confidence) for part in plain] == [
        *(((200, 300), None), ((90, 70), None), ((200, 300), None)),
    ]


def test_the_warm_up_runs_every_batch_size(painter: Segmenter) -> None:
    seen = []

    class Two(Painter):
        max_batch_size = 2

        def __call__(self, inputs: Tensor) -> Tensor:
            seen.append(len(inputs))
            return super().__call__(inputs)

    Segmenter(painter.spec, Two()).warm_up((48, 64))
    assert set(seen) == {1, 2}


def test_confidence_uses_the_temperature_of_the_model(painter: Segmenter) -> None:
    image, _ = scene(64, 64)
    spec = replace(painter.spec, temperature=2.0)
    sure = Segmenter(spec, Painter()).segment(image, confidence=True).confidence
    assert sure is not None
    expected = 255 / (1 + np.exp(-2) + 8 * np.exp(-6.5))
    assert abs(int(sure[20, 40]) - expected) <= 1


def test_rejects_a_network_of_another_output_size(painter: Segmenter) -> None:
    spec = replace(painter.spec, input_size=(128, 160))

    class Halved(Painter):
        def __call__(self, inputs: Tensor) -> Tensor:
            return super().__call__(inputs[:, ::2, ::2])

    with pytest.raises(
        ModelError, match=r'\(1, 10, 64, 80\) logits, expected \(1, 10, 128, 160\)'
    ):
        Segmenter(spec, Halved()).segment(scene(64, 64)[0])


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('threads')
def test_mask_does_not_depend_on_the_number_of_threads(tiny_model: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (270, 480, 3), dtype=np.uint8)
    segmenter = Segmenter.load(tiny_model, 'cpu', 'torch')
    segmenter.warm_up((27, 48))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(segmenter.segment(image, confidence=True))
    assert len(np.unique(results[0].mask)) > 1
    assert list(results[0].stage_ms) == ['fit', 'network', 'upsample', 'download']
    for other in results[1:]:  # float sums of the network may differ in the last bit
        assert np.mean(results[0].mask == other.mask) > 0.9999
        assert cv2.absdiff(results[0].confidence, other.confidence).max() <= 1


def test_rejects_an_unknown_runtime(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="runtime is 'fast', expected one of auto, torch"):
        Segmenter.load(tiny_model, runtime='fast')


def test_rejects_a_folder_with_weights_of_another_network(
    tiny_model: Path, tiny_spec: ModelSpec, tiny_network: SegmentationNetwork
) -> None:
    write_model(tiny_model, replace(tiny_spec, options={}), tiny_network.state_dict())
    with pytest.raises(ModelError, match='not those of Unet with tu-resnet18'):
        Segmenter.load(tiny_model, 'cpu', 'torch')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
@pytest.mark.parametrize('precision', ['auto', 'f32', 'bf16', 'f16'])
def test_cuda_gives_the_same_mask_as_the_cpu(tiny_model: Path, precision: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((270, 480), (90, 160))]
    on_cpu = Segmenter.load(tiny_model, 'cpu', 'torch')
    on_cuda = Segmenter.load(tiny_model, device='cuda', precision=precision, max_batch_size=2)
    on_cuda.warm_up()
    assert 'as a CUDA graph' in on_cuda.runtime.description
    for _ in range(2):  # the second call captures the graph that later ones replay
        on_cuda.segment_all(images, confidence=True)
    results = on_cuda.segment_all(images, confidence=True)
    assert on_cuda._graphs is not None
    assert on_cuda._graphs.failure is None
    for result, image in zip(results, images):
        expected = on_cpu.segment(image, confidence=True)
        assert (
            np.mean(result.mask == expected.mask) > 0.98
        )  # with random weights, margins are tiny
        assert result.confidence is not None
        assert expected.confidence is not None
        assert np.abs(result.confidence.astype(int) - expected.confidence).mean() < 2


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_logits_that_are_not_finite_are_not_background(value: float) -> None:
    class NotANumber(Painter):
        def __call__(self, inputs: Tensor) -> Tensor:
            logits = super().__call__(inputs)
            logits[0, :, 5, 5] = value
            return logits

    segmenter = Segmenter(ModelSpec(name='sick', input_size=(64, 96)), NotANumber())
    for images in (1, 2):
        with pytest.raises(ArithmeticError, match="'sick' returns NaN or infinite logits"):
            segmenter.segment_all([scene(48, 64)[0]] * images)
