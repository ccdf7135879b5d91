# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from surgseg_ros.core.runtimes import choose_device


def test_auto_and_cpu() -> None:
    assert choose_device('auto') == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert choose_device('cpu') == 'cpu'


@pytest.mark.parametrize('device', ['', 'gpu', 'meta', 'cuda:x', 'mps'])
def test_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}', expected auto, cpu, cuda"):
        choose_device(device)


def test_absent_device_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"'cuda:99', but torch sees .* set device to 'cpu'"):
        choose_device('cuda:99')
