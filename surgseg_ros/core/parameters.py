# SPDX-License-Identifier: Apache-2.0
"""The table of the node's parameters, and the pipeline's settings that are made of them."""

from typing import Any, Final, NamedTuple

from surgseg_ros.core.choices import AUTO, PRECISIONS, RUNTIME_NAMES
from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.gates import ACTIONS, DEFAULTS, GATES
from surgseg_ros.core.temporal_filter import LARGEST_FRAMES

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
            DEFAULTS[name].action,
            f'What is done where {gate.trouble}: nothing, a warning in status, or a mask of 255.',
            choices=ACTIONS,
        ),
        Parameter(
            f'gates.{name}.limit',
            gate.limit,
            f'From where on {gate.trouble}; docs/safety.md says of what.',
            gate.span,
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
    ),
    Parameter('device', 'auto', 'auto (CUDA where there is one), cpu, cuda, cuda:1 ...'),
    Parameter(
        'runtime',
        AUTO,
        'What runs the network; auto: the fastest that machine and model folder have.',
        choices=(AUTO, *RUNTIME_NAMES),
    ),
    Parameter(
        'precision',
        AUTO,
        'What the network computes in; auto: as it was exported, and with torch bf16 on CUDA, f32 '
        'on the CPU.',
        choices=PRECISIONS,
    ),
    Parameter('cpu_threads', 0, "Threads of torch on the CPU; 0: torch's choice.", (0, 256)),
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
    ),
    Parameter('overlay', True, 'Offer the overlay topic; drawn only with a subscriber.'),
    Parameter(
        'least_area',
        DEFAULT_LEAST_AREA,
        "Least share of the image's area that a detection must have.",
        (0.0, 1.0),
        live=True,
    ),
    Parameter(
        'min_confidence',
        0.0,
        'Least calibrated confidence of a pixel; one below it is 255, no decision. 0: off.',
        (0.0, 1.0),
        live=True,
    ),
    Parameter(
        'steady_frames',
        0,
        'Images in a row that must say the same other class before a pixel changes; 0: off.',
        (0, LARGEST_FRAMES),
    ),
    Parameter(
        'steady_sure',
        0.95,
        'Or the confidence with which a single one must say it.',
        (0.01, 1.0),
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
