# SPDX-License-Identifier: Apache-2.0
"""Reads a run's settings: a YAML file of known keys, and `key=value` on top."""

import contextlib
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from surgseg_ros.training.augmentation import Augmentation
from surgseg_ros.training.config import ConfigError, TrainConfig

_EXPECTED: Final = {
    tuple[int, int]: 'two whole numbers',
    tuple[str, ...]: 'a list of texts',
    Mapping[str, Any]: 'keys and values',
}


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """
    Read a run's settings.

    :param path: a YAML file.
    :param overrides: `key=value`, the value in YAML; `augmentation.flip=0` for a key inside.
    :return: the settings.
    :raises ConfigError: if the file cannot be read, or a key or value is not understood.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f'{str(path)!r} cannot be read ({error.strerror})') from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{str(path)!r} cannot be read as YAML: {_line(error)}') from error
    if not isinstance(values, dict):
        raise ConfigError(f'{str(path)!r} holds {values!r}, expected `key: value` lines')
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is no setting: write key=value')
        *parents, last = key.split('.')
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f'{override!r}: {parent!r} has no keys inside')
        try:
            inner[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f'{override!r}: the value is no YAML ({_line(error)})') from error
    config: TrainConfig = _build(TrainConfig, values, '')
    return config


def _line(error: Exception) -> str:
    """Put YAML's account of a slip, with its place, into one line."""
    return ' '.join(str(error).split())


def _build(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Make the dataclass `kind` of plain values, each of its field's type."""
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.0)[0]
            raise ConfigError(
                f'unknown key {prefix + str(key)!r}: did you mean {prefix + near!r}?'
            )
    lacking = [
        name
        for name, entry in known.items()
        if entry.default is entry.default_factory is dataclasses.MISSING and name not in values
    ]
    if lacking:
        raise ConfigError(
            f'no value for {", ".join(lacking)}: add it to the file, or as key=value'
        )
    return kind(**{k: _convert(prefix + k, v, known[k].type) for k, v in values.items()})


def _number(value: Any) -> float:
    """Read a number; 1e-3 is one too, though YAML 1.1 takes it for a text."""
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _convert(key: str, value: Any, kind: Any) -> Any:
    """Take a plain value for a field of type `kind`, or say why not."""
    if kind is Augmentation and isinstance(value, dict):
        return _build(Augmentation, value, f'{key}.')
    if kind is float:
        with contextlib.suppress(TypeError, ValueError):
            return _number(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if kind is str and type(value) is int:  # devices: 2
        return str(value)
    if kind == tuple[int, int] and isinstance(value, list) and [*map(type, value)] == [int, int]:
        return tuple(value)
    if kind == tuple[str, ...] and isinstance(value, list) and {*map(type, value)} <= {str}:
        return tuple(value)
    if kind == Mapping[str, Any] and isinstance(value, dict):
        return value
    expected = _EXPECTED.get(kind) or getattr(kind, '__name__', str(kind))
    raise ConfigError(f'{key} is {value!r}, expected {expected}')
