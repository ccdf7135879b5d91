# SPDX-License-Identifier: Apache-2.0
"""
Reads parameters from ROS params files and `NAME:=VALUE` as a node does, without rclpy.

Launch files read single parameters; `evaluate_bag` and `predict` read all that apply to them.
"""

import argparse
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from surgseg_ros.core.errors import did_you_mean
from surgseg_ros.core.model_folder import find_model
from surgseg_ros.core.parameters import (
    DEFAULTS,
    OFFLINE,
    TABLE,
    Parameter,
    camera_roi,
    check_choice,
    pipeline_settings,
)
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.segmentation import STEREO_LAYOUTS, Roi

NODE_NAME: Final = 'segmenter'
"""The default name of the node."""

_OF_EVERY_NODE: Final = ('use_sim_time', 'start_type_description_service')
_QOS_OVERRIDES: Final = 'qos_overrides.'

_BOOLEANS: Final = re.compile('y|yes|true|on|n|no|false|off')
_INTEGER: Final = re.compile('[-+]?(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)')
_FLOAT: Final = re.compile(r'[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?\.?(inf|nan)')


def _construct_scalar(loader: yaml.Loader, node: yaml.ScalarNode) -> bool | int | float | str:
    text = str(node.value)
    return text if node.style in ('"', "'") else _plain_value(text)


class _RosLoader(yaml.SafeLoader):
    """Reads words and numbers as rcl does: 2e-4 is a number; 1:30 and dates are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        **yaml.SafeLoader.yaml_constructors,
        'tag:yaml.org,2002:str': _construct_scalar,
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose as usual, but reject aliases, as rcl does: a few can expand to gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, 'ROS has no aliases (*name): write the value', self.get_mark()
            )
        return super().compose_node(parent, index)


def _plain_value(text: str) -> bool | int | float | str:
    """Return the value of a word or number without quotes."""
    lower = text.lower()
    if _BOOLEANS.fullmatch(lower) and text in (lower, lower.upper(), lower.capitalize()):
        return lower in ('y', 'yes', 'true', 'on')
    if _INTEGER.fullmatch(lower):
        digits = lower.lstrip('-+')
        base = 16 if 'x' in digits else 8 if digits.startswith('0') else 10
        number = int(digits, base)
        return -number if lower.startswith('-') else number
    if _FLOAT.fullmatch(lower):
        return float(lower.replace('.inf', 'inf').replace('.nan', 'nan'))
    return text


def effective_value(
    sources: Iterable[tuple[str, Any] | str], node_name: str, parameter: str
) -> Any:
    """
    Return the value of a parameter that may be set in several sources.

    :param sources: names with their values, and paths of YAML files; later ones take precedence.
    :param node_name: the node's fully qualified name.
    :param parameter: name of the parameter.
    :return: the value; None if no source has the parameter.
    :raises ValueError: if a file is not a parameters file.
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
    Read a node's value of a parameter from a file.

    :param path: the YAML file.
    :param node_name: the node's fully qualified name, `/left/segmenter`, for example.
    :param parameter: name of the parameter; dots separate the levels of nested names.
    :return: the value in the last section that applies to the node and has the parameter; None if
        there is none.
    :raises ValueError: if the file is not YAML, or not a mapping.
    :raises OSError: if it cannot be read.
    """
    value = None
    for section, parameters in _read_sections(path):
        if _is_for(section, node_name):
            found = dict(_flatten(parameters)).get(parameter)
            value = value if found is None else found
    return value


def read_node_parameters(path: Path, node_name: str = NODE_NAME) -> dict[str, Any]:
    """
    Read all parameters of a node from a file.

    :param path: the YAML file.
    :param node_name: the node's name. A name without namespace selects the only node of this
        name that the file has a section for.
    :return: values by parameter name; if several sections have a parameter, that of the last one.
    :raises ValueError: if it is not a parameters file, or only for other nodes, or for several
        nodes of that name.
    :raises OSError: if it cannot be read.
    """
    sections = list(_read_sections(path))
    names = [name or '(no node)' for name, _ in sections]
    full_name = node_name
    if not node_name.startswith('/'):
        own = sorted({name for name in names if name.rpartition('/')[2] == node_name})
        full_names = [name for name in own if '*' not in name]
        if len(full_names) > 1:
            raise ValueError(
                f'the parameters file {str(path)!r} is for several nodes, '
                f'{", ".join(full_names)}: choose one with --node-name'
            )
        full_name = full_names[0] if full_names else f'/{node_name}'
    found = [parameters for name, parameters in sections if _is_for(name, full_name)]
    if not found:
        raise ValueError(
            f'the parameters file {str(path)!r} has nothing for the node {node_name!r}, only for '
            f'{", ".join(names) or "no node at all"}: choose one with --node-name, or write /**'
        )
    return {name: value for parameters in found for name, value in _flatten(parameters)}


def _read_sections(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each mapping of parameters in a file with the name of its nodes."""
    try:
        content = yaml.load(path.read_text(), _RosLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'the parameters file {str(path)!r} is not YAML: {reason}') from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'the parameters file {str(path)!r} holds {type(content).__name__}, expected a '
            'mapping: node name, ros__parameters, and the parameters'
        )
    yield from _sections(content, '')


def _sections(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield each mapping of parameters with the name of its nodes."""
    for key, value in content.items():
        if key == 'ros__parameters':
            yield prefix, value
        elif isinstance(value, Mapping):
            yield from _sections(value, f'{prefix}/{str(key).strip("/")}')


def _is_for(section: str, node_name: str) -> bool:
    """Match names with wildcards as rcl does: `/*` is one name, `/**` any number of them."""
    pattern = re.escape(section).replace(r'/\*\*', r'(/\w+)*').replace(r'/\*', r'(/\w+)')
    return re.fullmatch(pattern, node_name) is not None


def _flatten(parameters: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield each parameter with its full name: dots separate the levels of nested mappings."""
    if not isinstance(parameters, Mapping):
        return
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


_EXPECTED: Final = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number with a decimal point',
    str: 'text: put it in quotes',
}


def read_value(name: str, text: str) -> Any:
    """
    Read the value of a parameter as a node does from its command line; text stays text.

    :param name: name of a row of TABLE.
    :param text: the value, in YAML unless the parameter is text.
    :return: the checked value.
    :raises ValueError: if the value is invalid; it names the parameter and what is expected.
    """
    row = next(row for row in TABLE if row.name == name)
    value = text if isinstance(row.default, str) else _read_override(f'{name}:={text}', name)[1][0]
    check_value(row, value)
    return value


def check_value(row: Parameter, value: Any) -> None:
    """
    Check a value as the node does, which does not accept an integer for a floating-point number.

    :param row: a row of TABLE.
    :param value: as parsed from YAML.
    :raises ValueError: if type or range are wrong; it names the value and what is expected.
    """
    check_choice(row, value)
    is_list = isinstance(row.default, list)
    values = value if is_list and isinstance(value, (list, tuple)) else [value]
    kind = type(row.default[0] if is_list else row.default)
    if any(type(item) is not kind for item in values) or (is_list and values is not value):
        expected = f'a list in brackets, each {_EXPECTED[kind]}' if is_list else _EXPECTED[kind]
        if kind is float and type(value) is int:
            expected += f': write {float(value)}'
        raise ValueError(f'{row.name} is {value!r}, expected {expected}')
    if row.span and not row.span[0] <= value <= row.span[1]:
        low, high = row.span
        raise ValueError(f'{row.name} is {value!r}, expected {low:g} to {high:g}')


def check_values(values: Mapping[str, Any]) -> None:
    """
    Check the values of a verb's options as the node does those of the parameters they stand for.

    :param values: the values by name of the parameter.
    :raises ValueError: if type or range of one are wrong; it names the value and what is expected.
    """
    for row in TABLE:
        if row.name in values:
            check_value(row, values[row.name])


class GivenParameters(NamedTuple):
    """
    The node's parameters in a verb, which reads them from options.

    :param values: checked values by name of all parameters that apply, including defaults.
    :param ignored: names of given parameters that do not apply.
    """

    values: Mapping[str, Any]
    ignored: tuple[str, ...]

    @property
    def model(self) -> Path | None:
        """
        The model folder; None if the parameter is empty.

        :raises ModelError: if it is DEFAULT_MODEL, and that is missing.
        """
        return find_model(self.values['model']) if self.values['model'] else None

    @property
    def roi(self) -> Roi | None:
        """
        The region of interest; None for the whole images.

        :raises ValueError: if it is invalid, not needed, or there are several, one per camera.
        """
        values = self.values['roi']
        if len(values) > 4:
            raise ValueError(
                f'roi is {values}, for several cameras: choose the one of these images, '
                f"--param 'roi:={values[:4]}' for example"
            )
        return camera_roi(values, mode=self.values['roi_mode'])

    @property
    def pipeline(self) -> PipelineSettings:
        """The settings of the images' pipeline."""
        return pipeline_settings(self.values)

    def ignored_line(self) -> str:
        """Return a line that names the ignored parameters; empty if there are none."""
        names = ', '.join(self.ignored)
        return names and f'parameters that have no effect here are ignored: {names}'


def add_parameter_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options that `resolve_parameters` reads: params_file, param and node_name.

    :param parser: parser of a verb.
    """
    add = parser.add_argument
    # fmt: off
    add('--params-file', type=Path, action='append', default=[], metavar='FILE',
        help='ROS parameters file of the node; parameters that have no effect here are listed and '
        'ignored; equivalent options take precedence; can be repeated, the last one wins')
    add('--param', action='append', default=[], metavar='NAME:=VALUE',
        help='a single parameter, such as gates.smoke.action:=no_decision; takes precedence over '
        '--params-file, but not over equivalent options; can be repeated')
    add('--node-name', default=NODE_NAME, metavar='NAME',
        help='name of the node, with or without namespace, whose parameters are read from '
        '--params-file, in addition to /** (default: %(default)s)')
    # fmt: on


def resolve_parameters(
    arguments: argparse.Namespace,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    applicable: Collection[str] = OFFLINE,
) -> GivenParameters:
    """
    Resolve all parameters: options take precedence over --param, and that over --params-file.

    :param arguments: arguments of a parser with `add_parameter_arguments`.
    :param options: values of the verb's other options that were given, by parameter name.
    :param defaults: defaults of the verb that differ from the node's.
    :param applicable: names of the parameters that apply to the verb.
    :return: the values.
    :raises ValueError: if a name or value is invalid; it names it and the remedy.
    :raises OSError: if a file cannot be read.
    """
    found: dict[str, tuple[Any, str]] = {}
    for path in arguments.params_file:
        source = f'the parameters file {str(path)!r}'
        values = read_node_parameters(path, arguments.node_name)
        found |= {name: (value, source) for name, value in values.items()}
    found |= dict(map(_read_override, arguments.param))
    for name, (_, source) in found.items():
        if not _is_known(name):
            near = did_you_mean(name, DEFAULTS)
            raise ValueError(f'{source}: there is no parameter {name!r}{near}: correct the name')
    if 'stereo_layout' in found:
        _check_one_view(*found['stereo_layout'])
    found |= {name: (value, '') for name, value in options.items()}
    every = {**DEFAULTS, **(defaults or {})}
    values = {name: every[name] for name in applicable}
    for row in TABLE:
        if row.name in found and row.name in applicable:
            values[row.name], source = found[row.name]
            try:
                check_value(row, values[row.name])
            except ValueError as error:
                raise ValueError(f'{source}: {error}' if source else str(error)) from error
    return GivenParameters(values, tuple(name for name in found if name not in applicable))


def _check_one_view(layout: Any, source: str) -> None:
    """Reject images with two views: these verbs would process both as one."""
    if layout != STEREO_LAYOUTS[0]:
        raise ValueError(
            f'{source}: stereo_layout is {layout!r}, and images with two views are for the node '
            'alone: choose one view, with --param stereo_layout:=none and a roi that is its half '
            "of the image, --param 'roi:=[0, 0, 960, 1080]' for example"
        )


def _read_override(text: str, source: str = '') -> tuple[str, tuple[Any, str]]:
    """Read NAME:=VALUE; return the name, and the value with its source for error messages."""
    source = source or f'--param {text!r}'
    name, separator, value = text.partition(':=')
    if not separator or not name:
        raise ValueError(f'{source}: expected NAME:=VALUE, min_confidence:=0.6 for example')
    try:
        return name, (yaml.load(value, _RosLoader), source)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{source}: the value is not YAML: {reason}') from error


def _is_known(name: str) -> bool:
    return name in DEFAULTS or name in _OF_EVERY_NODE or name.startswith(_QOS_OVERRIDES)
