# SPDX-License-Identifier: Apache-2.0
"""Looks up a parameter in files of ROS parameters, as a node of a given name would find it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


def effective_value(
    sources: Iterable[tuple[str, Any] | str], node_name: str, parameter: str
) -> Any:
    """
    Find which of several sources has the last word on a parameter.

    :param sources: names with their values, and paths of YAML files; the later ones win.
    :param node_name: the node's fully qualified name.
    :param parameter: its name.
    :return: the value; None where no source has the parameter.
    :raises ValueError: if a file is no file of parameters.
    :raises OSError: if one cannot be read.
    """
    value = None
    for source in sources:
        if isinstance(source, tuple):
            found = source[1] if source[0] == parameter else None
        else:
            found = read_parameter(Path(source), node_name, parameter)
        value = value if found is None else found
    return value


def read_parameter(path: Path, node_name: str, parameter: str) -> Any:
    """
    Read what a file gives a node for a parameter.

    :param path: the YAML file.
    :param node_name: the node's fully qualified name, `/left/segmenter` for example.
    :param parameter: its name; dots separate the levels of nested names.
    :return: the value of the last section that is for the node and holds the parameter; None where
        there is none.
    :raises ValueError: if the file is not YAML, or holds no mapping.
    :raises OSError: if it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'the parameters file {str(path)!r} is not YAML: {reason}') from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'the parameters file {str(path)!r} holds {type(content).__name__}, expected a '
            'mapping: node name, ros__parameters, and the parameters'
        )
    value = None
    for section, parameters in _sections(content, ''):
        if _is_for(section, node_name):
            found = _look_up(parameters, parameter)
            value = value if found is None else found
    return value


def _sections(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Name each mapping of parameters by the nodes that it is for."""
    for key, value in content.items():
        if key == 'ros__parameters':
            yield prefix, value
        elif isinstance(value, Mapping):
            yield from _sections(value, f'{prefix}/{str(key).strip("/")}')


def _is_for(section: str, node_name: str) -> bool:
    """Match names with wildcards as rcl does: `/*` is one name, `/**` any number of them."""
    pattern = re.escape(section).replace(r'/\*\*', r'(/\w+)*').replace(r'/\*', r'(/\w+)')
    return re.fullmatch(pattern, node_name) is not None


def _look_up(parameters: Any, name: str) -> Any:
    if not isinstance(parameters, Mapping):
        return None
    if name in parameters:
        return parameters[name]
    head, _, rest = name.partition('.')
    return _look_up(parameters.get(head), rest) if rest else None
