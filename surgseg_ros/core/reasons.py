# SPDX-License-Identifier: Apache-2.0
"""All reasons for which a camera's `status` is not OK; cheap to import."""

from collections.abc import Mapping
from enum import Enum, unique
from typing import Final, NamedTuple


@unique
class ReasonCode(Enum):
    """
    The words of `reason_codes`; programs rely on them, so a word never changes its meaning.

    Each is listed with its explanation in docs/status.md.
    """

    _value_: str
    explanation: str

    NOT_CONFIGURED = 'not_configured', 'The node is not configured: it has no model.'
    CONFIGURING = 'configuring', 'The node is loading its model.'
    NOT_ACTIVE = 'not_active', 'The node is configured, but not active.'
    TRANSITION_FAILED = 'transition_failed', 'A lifecycle transition has failed.'
    SHUT_DOWN = 'shut_down', 'The node is finalized, or its process is ending.'

    NO_IMAGE_YET = 'no_image_yet', 'No image has arrived since the node was activated.'
    STALE_CAMERA = 'stale_camera', 'No image has arrived within `stale_after_ms`.'
    NO_PUBLISHER = 'no_publisher', 'Nothing publishes the image topic with the expected type.'
    NOTHING_RECEIVED = (
        'nothing_received',
        'The image topic has a publisher, but none of its images arrives.',
    )
    NO_MASK_YET = 'no_mask_yet', 'Images arrive, but no mask is ready since the activation.'
    STALE_MASK = 'stale_mask', 'Images arrive, but no mask is ready within `stale_after_ms`.'

    MODEL_DEMO = 'model_demo', "The model's `intended_use` is `demo`."
    MODEL_SYNTHETIC = 'model_synthetic', "The model's `intended_use` is `synthetic`."
    MODEL_CHANGED = 'model_changed', 'The model was replaced, and has produced no mask yet.'
    MODEL_CHANGE_FAILED = (
        'model_change_failed',
        'Another model was requested and could not be used; the previous one is still in use.',
    )
    CPU_FALLBACK = 'cpu_fallback', 'The device or runtime failed; the CPU runs the model instead.'
    DEVICE_FAILED = (
        'device_failed',
        'The device or runtime failed, and the CPU could not take over.',
    )
    BATCHING_DISABLED = (
        'batching_disabled',
        'The device failed on several images at once; they are processed one at a time.',
    )

    TWO_CAMERAS = 'two_cameras', 'Several nodes publish on the image topic.'
    TWO_PUBLISHERS = 'two_publishers', "Another node publishes on one of the camera's outputs."

    IMAGE_REJECTED = 'image_rejected', 'The last message was not a readable image.'
    COLOR_LOST = 'color_lost', 'The compressed image has lost its colour.'
    COLOR_ORDER = 'color_order', 'The order of the channels of the compressed image is unknown.'
    JPEG_NOT_CHECKED = (
        'jpeg_not_checked',
        'The JPEG has a chroma subsampling that cannot be checked for damage.',
    )
    STAMP_ZERO = 'stamp_zero', 'The stamp of the image is zero.'
    STAMP_REPEATED = 'stamp_repeated', 'The image has the same stamp as the one before.'
    CLOCKS_DIFFER = (
        'clocks_differ',
        'With `age_source: header`, the stamp is in the future or older than 10 s.',
    )
    TOO_OLD = (
        'too_old',
        'The last result, or the instruments in it, was older than `stale_after_ms` or '
        '`max_frame_age_ms` when it was ready.',
    )
    PROCESSING_FAILED = (
        'processing_failed',
        'The network, the device or another step failed on the last image; if only its '
        'instruments could not be found, its mask is published and `degraded`.',
    )

    GATE_BLACK = 'gate_black', 'Quality gate `black`: the image is black.'
    GATE_SATURATED = 'gate_saturated', 'Quality gate `saturated`: the image is overexposed.'
    GATE_FROZEN = 'gate_frozen', 'Quality gate `frozen`: the image does not change.'
    GATE_UNFOCUSED = 'gate_unfocused', 'Quality gate `unfocused`: the image is out of focus.'
    GATE_SMOKE = 'gate_smoke', 'Quality gate `smoke`: smoke covers the image.'
    GATE_BLOOD = 'gate_blood', 'Quality gate `blood`: blood covers the image.'
    GATE_OUTSIDE = 'gate_outside', 'Quality gate `outside`: the image does not show a body.'
    GATE_INTERLACED = 'gate_interlaced', 'Quality gate `interlaced`: the image is interlaced.'
    LOW_CONFIDENCE = 'low_confidence', 'No pixel of the image reaches `min_confidence`.'

    def __new__(cls, word: str, explanation: str) -> 'ReasonCode':
        """Make the word the value, so that `ReasonCode('gate_smoke')` finds its code."""
        code = object.__new__(cls)
        code._value_ = word
        code.explanation = explanation
        return code


class Reason(NamedTuple):
    """
    Why masks cannot be used without reservation: a code for programs, a text for people.

    :param code: the kind of reason.
    :param text: a sentence without a full stop; may contain numbers that change.
    """

    code: ReasonCode
    text: str


class ResultWarning(NamedTuple):
    """
    Why the mask of an image cannot be trusted.

    :param code: the kind of warning.
    :param text: for people; may contain numbers that change from image to image.
    :param decided: whether there is a mask nevertheless; otherwise, there is no decision.
    """

    code: ReasonCode
    text: str
    decided: bool = True

    @property
    def reason(self) -> Reason:
        """The reason for `status`."""
        return Reason(self.code, self.text)


_HOLD_NS: Final = 10**9


class HeldWarnings:
    """Keeps warnings for a second, since some come and go from one image to the next."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[ResultWarning, int]] = {}

    def reset(self) -> None:
        """Forget all warnings, because another sequence of images starts."""
        self._held.clear()

    def update(
        self, found: Mapping[str, ResultWarning], stamp_ns: int
    ) -> tuple[ResultWarning, ...]:
        """
        Add the warnings of the next image.

        :param found: warnings of the image by their source.
        :param stamp_ns: stamp of the image, so that a bag gives the same warnings at any speed.
        :return: these and earlier warnings that are kept; a missing decision is not kept.
        """
        self._held |= {name: (warning, stamp_ns) for name, warning in found.items()}
        self._held = {
            name: (warning, at_ns)
            for name, (warning, at_ns) in self._held.items()
            if name in found or (warning.decided and 0 < stamp_ns - at_ns < _HOLD_NS)
        }
        return tuple(warning for warning, _ in self._held.values())
