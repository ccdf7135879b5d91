# SPDX-License-Identifier: Apache-2.0
"""The table of the node's parameters, and the pipeline's settings that are made of them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from surgseg_ros.core.choices import AUTO, PRECISIONS, RUNTIME_NAMES
from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.gates import ACTIONS, GATES, GateSetting
from surgseg_ros.core.gates import DEFAULTS as GATE_DEFAULTS
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.postprocessing import LARGEST_FRAMES
from surgseg_ros.core.segmentation import Roi

TRANSPORTS: Final = ('raw', 'compressed')
RELIABILITIES: Final = ('auto', 'reliable', 'best_effort')

AGE_SOURCES: Final = ('receipt', 'header')
"""From when the age of an image counts: its receipt on this machine, or its header's stamp."""

FAIL_SAFES: Final = ('silent', 'no_decision')
"""What the node publishes for a result that is too old, and while there is none."""

LARGEST_FRAME_AGE_MS: Final = 10_000
"""The largest limit on the age of an image."""

_LIVE: Final = 'A change takes effect at once.'
_AT_CONFIGURE: Final = 'Read when the node is configured; to change it, clean up first.'


class Parameter(NamedTuple):
    """One row of the table."""

    name: str
    default: Any
    description: str
    span: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether a change takes effect at once; the others are read at configure, unless `when`."""
    when: str = ''
    """When it is read, where it is neither live nor simply read at configure."""
    offline: bool = False
    """Whether it applies to bags and files too, because masks or detections depend on it."""

    @property
    def explanation(self) -> str:
        """What it is for, and when it is read."""
        usual = _LIVE if self.live else _AT_CONFIGURE
        return f'{self.description} {self.when or usual}'


_GATES: Final = tuple(
    row
    for name, gate in GATES.items()
    for row in (
        Parameter(
            f'gates.{name}.action',
            GATE_DEFAULTS[name].action,
            f'What is done where {gate.trouble}: nothing, a warning in status, or a mask of 255.',
            choices=ACTIONS,
            offline=True,
        ),
        Parameter(
            f'gates.{name}.limit',
            gate.limit,
            f'From where on {gate.trouble}; docs/safety.md says of what.',
            gate.span,
            offline=True,
        ),
    )
)

TABLE: Final = (
    Parameter(
        'autostart',
        True,
        'Configure and activate at start, without a lifecycle manager.',
        when='Read once, when the process starts; it cannot be changed later.',
    ),
    Parameter(
        'model',
        '',
        'Model folder, with model.json and weights.safetensors. No default.',
        when='Read when the node is configured; another folder that is set afterwards is loaded, '
        'tested, and takes over between two frames.',
        offline=True,
    ),
    Parameter(
        'device', 'auto', 'auto (CUDA where there is one), cpu, cuda, cuda:1 ...', offline=True
    ),
    Parameter(
        'runtime',
        AUTO,
        'What runs the network; auto: the fastest that machine and model folder have.',
        choices=(AUTO, *RUNTIME_NAMES),
        offline=True,
    ),
    Parameter(
        'precision',
        AUTO,
        'What the network computes in; auto: as it was exported, and with torch bf16 on CUDA, f32 '
        'on the CPU.',
        choices=PRECISIONS,
        offline=True,
    ),
    Parameter(
        'cpu_threads', 0, "Threads of torch on the CPU; 0: torch's choice.", (0, 256), offline=True
    ),
    Parameter('image_transport', 'raw', 'Image, or CompressedImage.', choices=TRANSPORTS),
    Parameter(
        'reliability',
        'auto',
        'Of the image subscription; auto: reliable only if all publishers offer it.',
        choices=RELIABILITIES,
    ),
    Parameter('image_topics', ['image'], 'Image topics, one per camera; relative names.'),
    Parameter('camera_names', [''], 'Prefixes of the outputs, one per image topic; left, right.'),
    Parameter(
        'roi',
        [0, 0, 0, 0],
        "The endoscope's part of the image: x, y, width, height in pixels, for all cameras or "
        'for each in turn; outside it the mask is 255. All 0: the whole image.',
        offline=True,
    ),
    Parameter('overlay', True, 'Offer the overlay topic; drawn only with a subscriber.'),
    Parameter(
        'least_area',
        DEFAULT_LEAST_AREA,
        "Least share of the image's area that a detection must have.",
        (0.0, 1.0),
        live=True,
        offline=True,
    ),
    Parameter(
        'min_confidence',
        0.0,
        'Least calibrated confidence of a pixel; one below it is 255, no decision. 0: off.',
        (0.0, 1.0),
        live=True,
        offline=True,
    ),
    Parameter(
        'steady_frames',
        0,
        'Images in a row that must say the same other class before a pixel changes; 0: off.',
        (0, LARGEST_FRAMES),
        offline=True,
    ),
    Parameter(
        'steady_sure',
        0.95,
        'Or the confidence with which a single one must say it.',
        (0.01, 1.0),
        offline=True,
    ),
    *_GATES,
    Parameter(
        'stale_after_ms',
        500,
        'Status is stale after so many milliseconds without a new mask; a result that is older '
        'when done is not published.',
        (10, 600_000),
        live=True,
    ),
    Parameter(
        'max_frame_age_ms',
        0,
        'A result whose image is older than so many milliseconds, by age_source, is not '
        'published as valid. 0: no limit but stale_after_ms.',
        (0, LARGEST_FRAME_AGE_MS),
        live=True,
    ),
    Parameter(
        'age_source',
        AGE_SOURCES[0],
        "From when max_frame_age_ms counts: receipt by this machine, or the header's stamp, for "
        'cameras that have the same clock as the node.',
        choices=AGE_SOURCES,
        live=True,
    ),
    Parameter(
        'fail_safe',
        FAIL_SAFES[0],
        'While stale, and for a result that is too old: silent, or no_decision (a mask of 255, '
        'once and then every stale_after_ms).',
        choices=FAIL_SAFES,
        live=True,
    ),
    Parameter(
        'no_image_warning_s',
        5.0,
        'Say why no image may come after so many seconds without one.',
        (0.1, 3600.0),
        live=True,
    ),
)
LIVE: Final = frozenset(row.name for row in TABLE if row.live)
AT_START: Final = frozenset({'autostart'})
"""Read once, when the process starts."""

DEFAULTS: Final[Mapping[str, Any]] = {row.name: row.default for row in TABLE}
OFFLINE: Final = frozenset(row.name for row in TABLE if row.offline)

_EXPECTED: Final = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number with a decimal point',
    str: 'text: put it in quotes',
}


def check_value(row: Parameter, value: Any) -> None:
    """
    Check a value as the node does, which takes no 1 for 1.0.

    :param row: of TABLE.
    :param value: as YAML gives it.
    :raises ValueError: naming the value and what is expected, if its type or range does not fit.
    """
    check_choice(row, value)
    is_list = isinstance(row.default, list)
    values = value if is_list and isinstance(value, (list, tuple)) else [value]
    kind = type(row.default[0] if is_list else row.default)
    if any(type(item) is not kind for item in values) or (is_list and values is not value):
        expected = f'a list, each {_EXPECTED[kind]}' if is_list else _EXPECTED[kind]
        if kind is float and type(value) is int:
            expected += f': write {float(value)}'
        raise ValueError(f'{row.name} is {value!r}, expected {expected}')
    if row.span and not row.span[0] <= value <= row.span[1]:
        low, high = row.span
        raise ValueError(f'{row.name} is {value!r}, expected {low:g} to {high:g}')


def check_choice(row: Parameter, value: Any) -> None:
    """
    Check that a value is one of the row's choices, if it has any.

    :param row: of TABLE.
    :param value: of the parameter.
    :raises ValueError: if it is another.
    """
    if row.choices and value not in row.choices:
        raise ValueError(f'{row.name} is {value!r}, expected one of {row.choices}')


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """
    Suggest the name that was meant.

    :param name: which does not exist.
    :param names: which exist.
    :return: a question in brackets, with a space before it; empty where none is similar.
    """
    near = difflib.get_close_matches(name, [*names], 1)
    return f' (did you mean {near[0]!r}?)' if near else ''


def gate_settings(values: Mapping[str, Any]) -> dict[str, GateSetting]:
    """
    Make the settings of all quality gates.

    :param values: of parameters by name; those that are missing have their defaults.
    :return: by gate.
    """
    every = {**DEFAULTS, **values}
    return {
        name: GateSetting(every[f'gates.{name}.action'], every[f'gates.{name}.limit'])
        for name in GATES
    }


def pipeline_settings(values: Mapping[str, Any] | None = None) -> PipelineSettings:
    """
    Make the settings of a camera's pipeline; node, verbs and benchmark all have theirs from here.

    :param values: of parameters by name; those that are missing have their defaults.
    :return: the settings; no regions are dropped, which the node has no parameter for.
    """
    every = {**DEFAULTS, **(values or {})}
    return PipelineSettings(
        gates=gate_settings(every),
        steady_frames=every['steady_frames'],
        steady_sure=every['steady_sure'],
        min_confidence=every['min_confidence'],
        least_area=every['least_area'],
    )


def camera_roi(values: Sequence[int], camera: int = 0, cameras: int = 1) -> Roi | None:
    """
    Find a camera's part of the image in the value of `roi`.

    :param values: x, y, width and height in pixels, once or for each camera in turn.
    :param camera: its index.
    :param cameras: how many there are.
    :return: the part; None for the whole image.
    :raises ValueError: if there are more or fewer numbers, one is negative, or a side is 0.
    """
    if len(values) not in (4, 4 * cameras) or min(values) < 0:
        raise ValueError(
            f'roi is {list(values)}, expected x, y, width, height in pixels, '
            f'once or for each of {cameras} cameras'
        )
    own = values[4 * camera : 4 * camera + 4] if len(values) > 4 else values
    if not any(own):
        return None
    roi = Roi(*(int(value) for value in own))
    if not roi.width_px or not roi.height_px:
        raise ValueError(f'roi is {list(values)}: width and height must be above 0')
    return roi
