# SPDX-License-Identifier: Apache-2.0
"""The table of the node's parameters, and the pipeline settings made from them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.gates import ACTIONS, GATES, GateSetting
from surgseg_ros.core.gates import DEFAULTS as GATE_DEFAULTS
from surgseg_ros.core.model_folder import DEFAULT_MODEL, EXPORT_PRECISIONS
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.postprocessing import LARGEST_FRAMES
from surgseg_ros.core.segmentation import ROI_AUTO, ROI_FIXED, ROI_MODES, STEREO_LAYOUTS, Roi
from surgseg_ros.core.tracking import DEFAULT_TRACK_LOST_MS, LONGEST_LOSS_MS

AUTO: Final = 'auto'

RUNTIME_NAMES: Final = ('torch', 'openvino', 'onnxruntime')
"""The keys of `runtimes.RUNTIMES`, for code that must not import torch."""

TORCH_PRECISIONS: Final = ('f32', 'bf16', 'f16')
"""Precisions in which torch can run a network, independent of training."""

PRECISIONS: Final = (AUTO, *dict.fromkeys((*TORCH_PRECISIONS, *EXPORT_PRECISIONS)))
"""Precisions that at least one runtime supports."""

PAIRINGS: Final = (AUTO, 'none')
"""Whether images of two cameras are processed in pairs."""

SPLIT_CAMERAS: Final = ('left', 'right')
"""Default names of the cameras with a `stereo_layout`, if `camera_names` has none."""

TRANSPORTS: Final = ('raw', 'compressed')
RELIABILITIES: Final = ('auto', 'reliable', 'best_effort')

AGE_SOURCES: Final = ('receipt', 'header')
"""Start of the age of an image: its receipt on this machine, or the stamp of its header."""

FAIL_SAFES: Final = ('silent', 'no_decision')
"""What the node publishes instead of a result that is too old, and while status is stale."""

LARGEST_FRAME_AGE_MS: Final = 10_000
"""Largest limit on the age of an image that can be set."""

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
    """When it is read, if it is neither live nor read at configure."""
    offline: bool = False
    """Whether it also applies to bags and files, because masks or detections depend on it."""

    @property
    def explanation(self) -> str:
        """What the parameter does, and when it is read."""
        usual = _LIVE if self.live else _AT_CONFIGURE
        return f'{self.description} {self.when or usual}'


_GATES: Final = tuple(
    row
    for name, gate in GATES.items()
    for row in (
        Parameter(
            f'gates.{name}.action',
            GATE_DEFAULTS[name].action,
            f'Action if {gate.problem}: none, warn (status is degraded) or no_decision (the whole '
            'mask is 255).',
            choices=ACTIONS,
            offline=True,
        ),
        Parameter(
            f'gates.{name}.limit',
            gate.limit,
            f'Limit of the measured value for "{gate.problem}"; docs/safety.md explains what is '
            'measured.',
            gate.span,
            offline=True,
        ),
    )
)

TABLE: Final = (
    Parameter(
        'autostart',
        True,
        'Configure and activate on startup, without a lifecycle manager.',
        when='Read once, when the process starts; it cannot be changed later.',
    ),
    Parameter(
        'model',
        DEFAULT_MODEL,
        'Path of the model folder, which holds model.json and weights.safetensors; default: the '
        'model that comes with the package, trained on synthetic scenes only; empty: no model, so '
        'that configure fails.',
        when='Read when the node is configured. If set while configured, the new model is loaded '
        'and tested in the background, and replaces the current one between two frames.',
        offline=True,
    ),
    Parameter(
        'device',
        'auto',
        'Device that runs the network: auto (CUDA if available), cpu, cuda, cuda:1 ...',
        offline=True,
    ),
    Parameter(
        'runtime',
        AUTO,
        'Library that runs the network; auto: the fastest one that is installed. On a CPU that is '
        'openvino, which takes an export of the model folder, or else converts the weights when '
        'they are loaded for the first time (docs/models.md).',
        choices=(AUTO, *RUNTIME_NAMES),
        offline=True,
    ),
    Parameter(
        'precision',
        AUTO,
        'Precision of the network; auto: that of the export; without one, with torch bf16 on CUDA '
        '(f32 if that fails the self-test) and f32 on the CPU, and with openvino the quickest for '
        'which the processor has instructions and that finds the classes of f32. evaluate_bag and '
        'predict take f32 if there is no export.',
        choices=PRECISIONS,
        offline=True,
    ),
    Parameter(
        'cpu_threads',
        0,
        "Number of CPU threads of torch and openvino; 0: torch's default.",
        (0, 256),
        offline=True,
    ),
    Parameter(
        'image_transport',
        'raw',
        'raw: subscribe to sensor_msgs/Image; compressed: to sensor_msgs/CompressedImage.',
        choices=TRANSPORTS,
    ),
    Parameter(
        'reliability',
        'auto',
        'Reliability of the image subscription; auto: reliable if all publishers offer it, else '
        'best effort.',
        choices=RELIABILITIES,
    ),
    Parameter('image_topics', ['image'], 'Image topics, one per camera; relative names.'),
    Parameter(
        'camera_names', [''], 'Prefixes of the output topics, one per image topic: left and right.'
    ),
    Parameter(
        'stereo_layout',
        STEREO_LAYOUTS[0],
        'How each image holds the views of two cameras: none (it is one view), side_by_side (left '
        'and right half) or top_bottom (upper and lower half). Each half is processed as a camera '
        'of its own, in its own coordinates; camera_names are left and right unless given.',
        choices=STEREO_LAYOUTS,
    ),
    Parameter(
        'pairing',
        AUTO,
        'auto: with two cameras, the newest pair of images with matching stamps is processed; '
        'none: the newest image of each camera in turn, as with any other number of cameras.',
        choices=PAIRINGS,
    ),
    Parameter(
        'pair_tolerance_ms',
        5,
        'Pairs: the largest difference of the stamps of two images in milliseconds, less than '
        'half of the time between two images; 0: equal stamps.',
        (0, 1000),
    ),
    Parameter(
        'pair_wait_ms',
        30,
        'Pairs: how long an image waits for that of the other camera, in milliseconds from its '
        'receipt, before it is processed alone.',
        (0, 10_000),
    ),
    Parameter(
        'camera_info_topics',
        [''],
        'Calibration topics of two cameras; empty: camera_info beside each image topic.',
    ),
    Parameter('rectified', True, 'Whether images of two cameras are rectified; false: raw.'),
    Parameter(
        'roi',
        [0, 0, 0, 0],
        'Region of interest, the part of the image that the endoscope fills: x, y, width, height '
        'in pixels, once for all cameras or once per camera. Outside it the mask is 255. All 0: '
        'the whole image.',
        offline=True,
    ),
    Parameter(
        'roi_mode',
        ROI_FIXED,
        'fixed: the region of interest is roi; auto: it is found in the images, by the sharp '
        'edges of black borders, or of the black around a round view, that stay for some images.',
        choices=ROI_MODES,
        offline=True,
    ),
    Parameter(
        'overlay', True, 'Publish the overlay topic; it is drawn only while it has a subscriber.'
    ),
    Parameter(
        'report_distances',
        False,
        'Report distances between tips, and from a needle to the nearest tip, in /diagnostics.',
    ),
    Parameter(
        'least_area',
        DEFAULT_LEAST_AREA,
        "Minimum area of a detection, as a share of the image's area; of a robotic tool, 5 times.",
        (0.0, 1.0),
        live=True,
        offline=True,
    ),
    Parameter(
        'min_confidence',
        0.0,
        'Minimum calibrated confidence of a pixel; one below it becomes 255, no decision. 0: off.',
        (0.0, 1.0),
        live=True,
        offline=True,
    ),
    Parameter(
        'min_detection_score',
        0.0,
        'Minimum score of an instrument; those below it are left out of all topics except the '
        'masks and the confidence, which do not change. 0: off.',
        (0.0, 1.0),
        live=True,
        offline=True,
    ),
    Parameter(
        'steady_frames',
        0,
        'Temporal filter: number of consecutive images that must show the same new class before '
        'a pixel changes; 0: off.',
        (0, LARGEST_FRAMES),
        offline=True,
    ),
    Parameter(
        'steady_sure',
        0.95,
        'Temporal filter: confidence at which a pixel changes with a single image.',
        (0.01, 1.0),
        offline=True,
    ),
    Parameter(
        'track_lost_ms',
        DEFAULT_TRACK_LOST_MS,
        'Milliseconds for which an instrument may be out of sight and keep its id, 10 times as '
        'long while other instruments cover it; 0: it loses its id at once.',
        (0, LONGEST_LOSS_MS),
        offline=True,
    ),
    *_GATES,
    Parameter(
        'stale_after_ms',
        500,
        'Milliseconds without a new mask after which status is stale; a result older than this '
        'when it is ready is not published.',
        (10, 600_000),
        live=True,
    ),
    Parameter(
        'max_frame_age_ms',
        0,
        'Maximum age of the image in milliseconds, measured from age_source, when its result is '
        'ready; an older result is not published as valid. 0: only stale_after_ms applies.',
        (0, LARGEST_FRAME_AGE_MS),
        live=True,
    ),
    Parameter(
        'age_source',
        AGE_SOURCES[0],
        'Start of the age for max_frame_age_ms: receipt on this machine, or the stamp of the '
        'header, for cameras whose clock is synchronized with that of the node.',
        choices=AGE_SOURCES,
        live=True,
    ),
    Parameter(
        'fail_safe',
        FAIL_SAFES[0],
        'What is published while status is stale, and instead of a result that is too old: '
        'silent (nothing), or no_decision (a mask of 255, once and then every stale_after_ms).',
        choices=FAIL_SAFES,
        live=True,
    ),
    Parameter(
        'no_image_warning_s',
        5.0,
        'Seconds without an image after which the log explains the likely cause.',
        (0.1, 3600.0),
        live=True,
    ),
)
LIVE: Final = frozenset(row.name for row in TABLE if row.live)
AT_START: Final = frozenset({'autostart'})
"""Read once, when the process starts."""

DEFAULTS: Final[Mapping[str, Any]] = {row.name: row.default for row in TABLE}
OFFLINE: Final = frozenset(row.name for row in TABLE if row.offline)


def check_choice(row: Parameter, value: Any) -> None:
    """
    Check that a value is one of the row's choices, if it has any.

    :param row: a row of TABLE.
    :param value: the value of the parameter.
    :raises ValueError: if it is not one of them.
    """
    if row.choices and value not in row.choices:
        raise ValueError(f'{row.name} is {value!r}, expected one of {", ".join(row.choices)}')


def gate_settings(values: Mapping[str, Any]) -> dict[str, GateSetting]:
    """
    Create the settings of all quality gates.

    :param values: parameter values by name; missing ones have their defaults.
    :return: the settings by gate.
    """
    every = {**DEFAULTS, **values}
    return {
        name: GateSetting(every[f'gates.{name}.action'], every[f'gates.{name}.limit'])
        for name in GATES
    }


def pipeline_settings(values: Mapping[str, Any] | None = None) -> PipelineSettings:
    """
    Create the settings of a camera's pipeline, for the node, the verbs and the benchmark.

    :param values: parameter values by name; missing ones have their defaults.
    :return: the settings; `least_region` stays empty, because the node has no parameter for it.
    """
    every = {**DEFAULTS, **(values or {})}
    return PipelineSettings(
        gates=gate_settings(every),
        steady_frames=every['steady_frames'],
        steady_sure=every['steady_sure'],
        min_confidence=every['min_confidence'],
        min_detection_score=every['min_detection_score'],
        least_area=every['least_area'],
        roi_mode=every['roi_mode'],
        track_lost_ms=every['track_lost_ms'],
    )


def camera_roi(
    values: Sequence[int], camera: int = 0, cameras: int = 1, *, mode: str = ROI_FIXED
) -> Roi | None:
    """
    Return a camera's region of interest from the value of the parameter `roi`.

    :param values: x, y, width and height in pixels, once or for each camera in turn.
    :param camera: its index.
    :param cameras: number of cameras.
    :param mode: value of `roi_mode`.
    :return: the region; None for the whole image, or if it is to be found automatically.
    :raises ValueError: if the count of numbers is wrong, one is negative, a side is 0, or a region
        is given although it is to be found automatically.
    """
    if len(values) not in (4, 4 * cameras) or min(values) < 0:
        often = f', once or for each of {cameras} cameras' if cameras > 1 else ''
        raise ValueError(f'roi is {list(values)}, expected x, y, width, height in pixels{often}')
    if mode == ROI_AUTO and any(values):
        raise ValueError(
            f'roi is {list(values)}, but roi_mode auto finds it in the images: leave roi out, or '
            'set roi_mode to fixed'
        )
    own = values[4 * camera : 4 * camera + 4] if len(values) > 4 else values
    if not any(own):
        return None
    x, y, width, height = (int(value) for value in own)
    roi = Roi(x, y, width, height)
    if not roi.width_px or not roi.height_px:
        raise ValueError(f'roi is {list(values)}: width and height must be above 0')
    return roi
