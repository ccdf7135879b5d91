# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.preprocessing import (
    Placement,
    fit,
    fit_mask,
    normalize_colours,
    place,
    prepare,
)

TARGET = (130, 70, 70)
SPEC = ModelSpec(name='any', input_size=(64, 96))


@pytest.mark.parametrize(
    ('image_size', 'mode', 'expected'),
    [
        ((1080, 1920), 'letterbox', Placement(360, 640)),
        ((1920, 1080), 'letterbox', Placement(384, 216)),
        ((100, 100), 'letterbox', Placement(384, 384)),
        ((1, 999), 'letterbox', Placement(1, 640)),
        ((999, 1), 'letterbox', Placement(384, 1)),
        ((1, 999), 'stretch', Placement(384, 640)),
    ],
)
def test_placement_of_images(image_size: tuple[int, int], mode: str, expected: Placement) -> None:
    assert place(image_size, (384, 640), mode) == expected


def test_letterbox_pads_bottom_and_right_with_black() -> None:
    inputs = fit(torch.full((1, 50, 40, 3), 200, dtype=torch.uint8), (64, 96), 'letterbox')
    assert inputs.shape == (1, 64, 96, 3)
    assert inputs.dtype == torch.uint8
    assert (inputs[:, :, :51] == 200).all()
    assert (inputs[:, :, 51:] == 0).all()


def test_large_image_is_antialiased() -> None:
    stripes = torch.zeros(1, 256, 384, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 254
    inner = fit(stripes, (64, 96), 'letterbox')[:, 4:-4, 4:-4].float()
    assert (inner - 127).abs().max() <= 2


def test_image_of_the_input_size_is_unchanged() -> None:
    image = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    assert torch.equal(fit(image, (64, 96), 'letterbox'), image)


def test_padded_rows_give_the_same_result() -> None:
    padded = torch.randint(0, 256, (1, 200, 330, 3), dtype=torch.uint8)
    view = padded[:, :, :300]
    assert torch.equal(fit(view, (64, 96), 'stretch'), fit(view.clone(), (64, 96), 'stretch'))


@pytest.mark.parametrize('mode', ['letterbox', 'stretch'])
def test_mask_is_placed_like_its_image(mode: str) -> None:
    image = torch.zeros(1, 300, 200, 3, dtype=torch.uint8)
    image[:, 90:240, 60:110] = 255
    mask = (image[..., 0] > 0).to(torch.uint8) * 4
    inputs = fit(image, (128, 192), mode)[..., 0] > 127
    fitted_mask = fit_mask(mask, (128, 192), mode, fill=0)
    agreement = (inputs == (fitted_mask == 4)).float().mean()
    assert agreement > 0.99
    assert set(fitted_mask.unique().tolist()) == {0, 4}


def test_mask_padding_has_the_requested_value() -> None:
    mask = fit_mask(torch.zeros(1, 50, 40, dtype=torch.uint8), (64, 96), 'letterbox', fill=255)
    assert (mask[:, :, :51] == 0).all()
    assert (mask[:, :, 51:] == 255).all()


def tissue(red: int, green: int, blue: int, spread: int = 20) -> Tensor:
    """Draw (1, 64, 96, 3) uint8 of noise around a colour."""
    noise = torch.randint(-spread, spread + 1, (1, 64, 96, 3), generator=torch.manual_seed(0))
    return (torch.tensor([red, green, blue]) + noise).clamp(0, 255).to(torch.uint8)


def means(image: Tensor) -> list[float]:
    return image.float().mean((0, 1, 2)).tolist()


def test_with_power_1_channel_means_reach_the_target() -> None:
    drawn = normalize_colours(tissue(80, 90, 60), TARGET, 1)
    assert means(drawn) == pytest.approx(TARGET, abs=2)


def test_with_a_power_below_1_channel_means_approach_the_target() -> None:
    drawn = normalize_colours(tissue(80, 90, 60), TARGET, 0.5)
    expected = [(80 * 130) ** 0.5, (90 * 70) ** 0.5, (60 * 70) ** 0.5]
    assert means(drawn) == pytest.approx(expected, abs=2)


def test_with_power_0_nothing_changes() -> None:
    image = tissue(80, 90, 60)
    assert torch.equal(normalize_colours(image, TARGET, 0), image)


@pytest.mark.parametrize(('colour', 'gain'), [((14, 12, 12), 2.5), ((245, 240, 240), 0.5)])
def test_gain_is_limited(colour: tuple[int, int, int], gain: float) -> None:
    drawn = normalize_colours(tissue(*colour, spread=1), (130, 100, 100), 1)
    assert means(drawn) == pytest.approx([gain * value for value in colour], rel=0.1)


@pytest.mark.parametrize('value', [0, 7, 255])
def test_an_image_without_content_is_unchanged(value: int) -> None:
    image = torch.full((1, 64, 96, 3), value, dtype=torch.uint8)
    assert torch.equal(normalize_colours(image, TARGET, 1), image)


def test_borders_are_ignored() -> None:
    image = tissue(80, 90, 60, spread=4)
    framed = image.clone()
    framed[:, :, :40] = 3
    drawn = normalize_colours(framed, TARGET, 1)
    whole = normalize_colours(image, TARGET, 1)
    assert means(drawn[:, :, 40:]) == pytest.approx(means(whole[:, :, 40:]), rel=0.02)


def test_a_highlight_changes_the_rest_by_less_than_a_level_or_two() -> None:
    image = tissue(100, 60, 60)
    lit = image.clone()
    lit[:, 20:36, 30:54] = 255  # clipped: 6 % of the image
    lit[:, 40:48, 30:54] = 235  # almost clipped
    before, after = (normalize_colours(each, TARGET, 0.6) for each in (image, lit))
    assert (before[:, :16].int() - after[:, :16].int()).abs().max() <= 2


def test_pixels_with_only_red_clipped_are_counted() -> None:
    drawn = normalize_colours(tissue(255, 70, 70, spread=0), TARGET, 1)
    assert means(drawn) == pytest.approx(TARGET, abs=4)


def test_each_image_of_a_batch_has_its_own_gain() -> None:
    images = [tissue(80, 90, 60), tissue(150, 40, 50)]
    together = normalize_colours(torch.cat(images), TARGET, 0.6)
    for each, image in zip(together, images, strict=True):
        assert torch.equal(each, normalize_colours(image, TARGET, 0.6)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
def test_cuda_result_differs_by_at_most_one_level() -> None:
    images = torch.cat([tissue(80, 90, 60), tissue(150, 40, 50)])
    drawn = normalize_colours(images.cuda(), TARGET, 0.6).cpu()
    assert (drawn.int() - normalize_colours(images, TARGET, 0.6).int()).abs().max() <= 1


def test_images_are_unchanged_if_the_model_has_no_color_target() -> None:
    image = torch.randint(0, 256, (1, 100, 120, 3), dtype=torch.uint8)
    assert torch.equal(prepare(image, SPEC), fit(image, (64, 96), 'letterbox'))


def test_padding_stays_black_and_is_ignored() -> None:
    spec = replace(SPEC, colour_normalization={'target': [130, 70, 70], 'power': 1})
    drawn = prepare(tissue(80, 90, 60, spread=4)[:, :, :64], spec)  # 64 columns of 96
    assert means(drawn[:, :, :64]) == pytest.approx(TARGET, abs=2)
    assert not drawn[:, :, 64:].any()
