# SPDX-License-Identifier: Apache-2.0
"""A shorter `make fuzz`, and checks that it detects failures."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import header
from tools.fuzz import checks
from tools.fuzz.__main__ import CORPUS, refuse
from tools.fuzz.checks import TYPES, ViolatedGuaranteeError, check
from tools.fuzz.malformed import malformed
from tools.fuzz.seeds import seeds

KEPT = sorted(CORPUS.glob('*/*.cdr'))


@pytest.mark.parametrize('kind', TYPES)
def test_good_messages_give_masks(kind: str) -> None:
    assert {name: check(cdr, kind) for name, cdr in seeds(kind).items()} == dict.fromkeys(
        seeds(kind), ''
    )


@pytest.mark.parametrize('kind', TYPES)
def test_thousands_of_malformed_messages_are_rejected_or_give_the_right_mask(kind: str) -> None:
    causes = refuse(kind, seed=5, number=4000)['causes']
    assert sum(causes.values()) - causes['mask'] == 4000
    expected = {'image': {'cdr', 'text', 'encoding', 'size', 'step', 'data', 'conversion'}}
    expected['compressed'] = {'cdr', 'text', 'encoding', 'size', 'decode'}
    assert set(causes) == {*expected[kind], 'mask'}


@pytest.mark.parametrize('kind', TYPES)
def test_the_same_seed_gives_the_same_messages(kind: str) -> None:
    one, same, other = (list(itertools.islice(malformed(kind, seed), 50)) for seed in (3, 3, 4))
    assert one == same
    assert one != other


@pytest.mark.parametrize('path', KEPT, ids=lambda path: f'{path.parent.name}-{path.stem}')
def test_earlier_findings_stay_fixed(path: Any) -> None:
    """The file name states the outcome; decoders of other releases may be more or less strict."""
    expected = path.stem.split('-')[0]
    cause = check(path.read_bytes(), path.parent.name) or 'mask'
    lenient = {'mask', 'decode'}
    assert cause == expected or (path.parent.name == 'compressed' and {cause, expected} == lenient)


def test_the_corpus_has_both_kinds() -> None:
    assert {path.parent.name for path in KEPT} == set(TYPES)


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ('name', 'broken', 'words'),
    [
        ('rgb_from_msg', lambda message: _raise(MemoryError('all')), 'MemoryError instead'),
        ('rgb_from_msg', lambda message: np.zeros((6, 9, 3), np.uint8), 'got a mask of'),
        ('rgb_from_msg', lambda message: np.zeros((10, 6, 3), np.uint8), 'got a mask of'),
        ('image_to_msg', lambda mask, h: image_to_msg(mask, header(7)), 'the header'),
        ('image_to_msg', lambda mask, h: image_to_msg(np.dstack([mask] * 3), h), 'begins with'),
    ],
)
def test_a_violated_invariant_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., Any], words: str
) -> None:
    monkeypatch.setattr(checks, name, broken)
    with pytest.raises(ViolatedGuaranteeError, match=words):
        check(seeds('image')['rgb8_little'], 'image')


def test_an_error_that_fills_the_log_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks, 'read_image', lambda cdr, name: _raise(checks.ImageError('x' * 2000, 'cdr'))
    )
    with pytest.raises(ViolatedGuaranteeError, match='2000 characters'):
        check(b'', 'image')
