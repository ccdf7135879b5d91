# SPDX-License-Identifier: Apache-2.0
"""Each gate passes a good image and rejects its kind of degraded image; actions and counts."""

import numpy as np
import pytest

from surgseg_ros.core.gates import (
    DEFAULTS,
    FROZEN,
    GATES,
    REFUSE,
    WARN,
    Gates,
    GateSetting,
)
from surgseg_ros.synthetic import Scene

BLACK = np.zeros((90, 160, 3), np.uint8)


def noise(seed: int) -> np.ndarray:
    """Return a bright, red image with texture."""
    rng = np.random.default_rng(seed)
    return rng.integers((90, 20, 20), (250, 90, 90), (90, 160, 3), np.uint8)


def test_default_action_is_warn_and_the_limit_is_in_range() -> None:
    assert list(DEFAULTS) == list(GATES)
    for name, setting in DEFAULTS.items():
        assert setting.action == WARN
        low, high = GATES[name].span
        assert low <= setting.limit <= high


def test_a_good_image_passes_all_gates_and_a_black_one_is_reported() -> None:
    gates = Gates()
    assert gates.check(noise(0)) == ()
    (finding,) = gates.check(BLACK)
    assert (finding.gate, finding.action) == ('black', WARN)
    assert finding.reason == 'the image is black: 1.000 (limit 0.700)'


def test_an_interlaced_image_fails_only_the_gate_for_interlacing() -> None:
    """With black borders, as a da Vinci sends it; the two fields show a moving tool."""
    gates, scene = Gates(), Scene(3, (360, 450), 10.0)
    found = []
    for number in range(0, 12, 2):
        image = scene.frame(number).image
        image[1::2] = scene.frame(number + 1).image[1::2]
        found.append(gates.check(np.pad(image, ((0, 0), (95, 95), (0, 0)))))
    assert {one.gate for findings in found for one in findings} == {'interlaced'}
    assert not gates.check(np.pad(scene.frame(12).image, ((0, 0), (95, 95), (0, 0))))


def test_gate_takes_the_requested_action() -> None:
    strict = Gates({'black': GateSetting(REFUSE, 0.7)})
    assert [finding.action for finding in strict.check(BLACK)] == [REFUSE]
    assert Gates({'black': GateSetting()}).check(BLACK) == ()
    assert Gates({}).check(BLACK) == ()


def test_gate_uses_the_requested_limit() -> None:
    half = noise(0)
    half[:45] = 0
    assert Gates({'black': GateSetting(WARN, 0.4)}).check(half)
    assert not Gates({'black': GateSetting(WARN, 0.6)}).check(half)


def test_sharpness_has_a_lower_limit() -> None:
    assert Gates({'unfocused': GateSetting(WARN, 1.0)}).check(noise(0))
    assert not Gates({'unfocused': GateSetting(WARN, 0.1)}).check(noise(0))


def test_repeated_identical_images_are_frozen() -> None:
    gates = Gates({FROZEN: GateSetting(WARN, 3)})
    same = noise(1)
    found = [gates.check(image.copy()) for image in (noise(0), same, same, same, same, noise(2))]
    assert [bool(findings) for findings in found] == [False, False, False, True, True, False]
    assert found[4][0].reason == 'the image does not change: 4 identical in a row (limit 3)'


def test_a_slightly_different_image_is_not_frozen() -> None:
    gates = Gates({FROZEN: GateSetting(WARN, 2)})
    image = noise(0)
    gates.check(image)
    image[:, 80] ^= 1  # the caller may write to it again
    assert gates.check(image) == ()


def test_another_size_and_a_reset_restart_the_count() -> None:
    gates = Gates({FROZEN: GateSetting(WARN, 2)})
    gates.check(noise(0))
    assert gates.check(noise(0)[:80]) == ()
    assert gates.check(noise(0)[:80])
    gates.reset()
    assert gates.check(noise(0)[:80]) == ()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'fog': GateSetting()}, "no gate 'fog'"),
        ({'black': GateSetting('stop', 0.5)}, "action of gate 'black' is 'stop'"),
        ({'black': GateSetting(WARN, 1.5)}, "limit of gate 'black' is 1.5, expected 0 to 1"),
        ({'black': GateSetting(WARN)}, "limit of gate 'black' is nan"),
        ({FROZEN: GateSetting(WARN, 1)}, "limit of gate 'frozen' is 1"),
    ],
)
def test_rejects_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gates(settings)
