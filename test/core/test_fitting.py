# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from surgseg_ros.core.fitting import Placement, fit, fit_mask, place


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
def test_place(image_size: tuple[int, int], mode: str, expected: Placement) -> None:
    assert place(image_size, (384, 640), mode) == expected


def test_letterbox_pads_below_and_right_with_black() -> None:
    fitted = fit(torch.full((1, 50, 40, 3), 200, dtype=torch.uint8), (64, 96), 'letterbox')
    assert fitted.shape == (1, 64, 96, 3)
    assert fitted.dtype == torch.uint8
    assert (fitted[:, :, :51] == 200).all()
    assert (fitted[:, :, 51:] == 0).all()


def test_large_image_is_antialiased() -> None:
    stripes = torch.zeros(1, 256, 384, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 254
    inner = fit(stripes, (64, 96), 'letterbox')[:, 4:-4, 4:-4].float()
    assert (inner - 127).abs().max() <= 2


def test_image_of_the_input_s_size_is_untouched() -> None:
    image = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    assert torch.equal(fit(image, (64, 96), 'letterbox'), image)


def test_padded_rows_give_the_same() -> None:
    padded = torch.randint(0, 256, (1, 200, 330, 3), dtype=torch.uint8)
    view = padded[:, :, :300]
    assert torch.equal(fit(view, (64, 96), 'stretch'), fit(view.clone(), (64, 96), 'stretch'))


@pytest.mark.parametrize('mode', ['letterbox', 'stretch'])
def test_mask_lies_where_its_image_lies(mode: str) -> None:
    image = torch.zeros(1, 300, 200, 3, dtype=torch.uint8)
    image[:, 90:240, 60:110] = 255
    mask = (image[..., 0] > 0).to(torch.uint8) * 4
    fitted = fit(image, (128, 192), mode)[..., 0] > 127
    fitted_mask = fit_mask(mask, (128, 192), mode, fill=0)
    agreement = (fitted == (fitted_mask == 4)).float().mean()
    assert agreement > 0.99
    assert set(fitted_mask.unique().tolist()) == {0, 4}


def test_mask_s_padding_has_the_value_asked_for() -> None:
    mask = fit_mask(torch.zeros(1, 50, 40, dtype=torch.uint8), (64, 96), 'letterbox', fill=255)
    assert (mask[:, :, :51] == 0).all()
    assert (mask[:, :, 51:] == 255).all()
