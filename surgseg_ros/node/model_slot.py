# SPDX-License-Identifier: Apache-2.0
"""The model in use, and its replacement: on request, or after a failure of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from surgseg_ros.core.errors import describe
from surgseg_ros.core.model_folder import find_model, read_spec
from surgseg_ros.core.processes import importing
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.timing import forward_logs
from surgseg_ros.node.freshness import Generation
from surgseg_ros.node.parameters import Settings
from surgseg_ros.node.worker import Inference

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter


_DEGRADED_BY_USE: Final = {
    'demo': Reason(ReasonCode.MODEL_DEMO, 'the model is for demonstration only'),
    'synthetic': Reason(
        ReasonCode.MODEL_SYNTHETIC, 'the model was trained on synthetic scenes only'
    ),
}
"""Why masks of a model are at best degraded, by its intended use."""


class Logger(Protocol):
    """The methods of a logger that are needed here."""

    def info(self, message: str) -> object:
        """Log at level info."""

    def warning(self, message: str) -> object:
        """Log at level warning."""

    def error(self, message: str) -> object:
        """Log at level error."""


class ModelSlot:
    """
    Holds one model from configure to cleanup; thread-safe.

    Another model is loaded and tested in a separate thread, while the current model is in use. If
    that fails, the current model stays in use. Ownership:

        SegmenterNode ── owns ──> ModelSlot ── owns ──> Inference ── owns ──> Segmenter
              │                       ^                    │ fall_back, disable_batching
              │                       └────────────────────┘
              └── owns ──> Worker ── reads `inference` before each batch

    The slot is the inference's FallbackHandler. The worker does not keep an inference while it
    waits for frames, so that a replaced model can be freed; early work of a GPU (`Speculation`) is
    discarded if another inference is in use. Locks are acquired in this order:
    `_loading` (one load at a time), `_lock` (the slot's fields), the generation's (so that a model
    changes between two results, not during a publication), and last those of Health and Reporter.
    No lock is held while waiting for the owner of another lock.

    :param logger: the node's logger.
    :param generation: the node's generation.
    :param on_change: called with the new degraded reasons when another model is in use; the
        generation is held, so that no result is published meanwhile.
    :param report: called after a change of the model, or of the reasons why it is degraded.
    """

    def __init__(
        self,
        logger: Logger,
        generation: Generation,
        on_change: Callable[[tuple[Reason, ...]], None],
        report: Callable[[], None],
    ) -> None:
        self.segmenter: Segmenter | None = None
        self.inference: Inference | None = None
        """Inference that the worker uses from its next batch on."""
        self.tested = False
        """Whether the model has a self-test and has passed it."""
        self._logger = logger
        self._generation = generation
        self._on_change = on_change
        self._report = report
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._settings: Settings | None = None
        self._change_failure: Reason | None = None
        self._fallback_reason: Reason | None = None
        self._batching_reason: Reason | None = None
        self._number = 0
        self._usual_threads = 0
        self._advised = False

    def fill(self, settings: Settings) -> Segmenter:
        """
        Load the first model; the first call also imports the libraries that it needs.

        :param settings: the folder, and how to run the model.
        :return: the model.
        :raises Exception: of any type, from the folder, device or library, if it cannot be used.
        """
        self._import_torch(settings.model)
        self._set_threads(settings.cpu_threads)
        segmenter, tested = self._load(settings)
        with self._lock:
            self._settings, self.tested = settings, tested
            self._change_failure = self._fallback_reason = self._batching_reason = None
            self.segmenter, self.inference = segmenter, Inference(segmenter, self)
        return segmenter

    def empty(self) -> None:
        """Release the model; a model that is being loaded will not be used."""
        with self._lock:
            self._number += 1
            self.segmenter = self.inference = self._settings = None
            self._change_failure = self._fallback_reason = self._batching_reason = None

    def degraded_reasons(self) -> tuple[Reason, ...]:
        """Return the reasons why masks of this model are at best degraded."""
        with self._lock:
            return self._degraded_reasons()

    def _degraded_reasons(self) -> tuple[Reason, ...]:
        segmenter = self.segmenter
        possible = (
            _DEGRADED_BY_USE.get(segmenter.spec.intended_use) if segmenter is not None else None,
            self._change_failure,
            self._fallback_reason,
            self._batching_reason,
        )
        return tuple(reason for reason in possible if reason is not None)

    def is_in_use(self, folder: str) -> bool:
        """
        Return whether requesting a folder again would have no effect.

        :param folder: the folder that was requested last.
        :return: True if it is in use, is being loaded, or will be read at configure.
        """
        with self._lock:
            settings = self._settings
            in_use = settings is None or (settings.model == folder and not self._change_failure)
        return in_use or self._loading.locked()

    def describe(self) -> str:
        """Return name and hash of the model; empty without a model."""
        if (segmenter := self.segmenter) is None:
            return ''
        name = f'{segmenter.spec.name} ({segmenter.spec.weights_sha256[:12]})'
        return name if self.tested else f'{name}, no self-test'

    def change(self, settings: Settings) -> str:
        """
        Load a model to replace the current one, and wait for it.

        :param settings: the folder, and how to run the model.
        :return: a description of the new model and its runtime.
        :raises Exception: if it cannot be used; the current model stays in use, and
            `degraded_reasons` report why.
        """
        self._begin()
        try:
            return self._change(settings)
        finally:
            self._loading.release()

    def change_soon(self, settings: Settings) -> None:
        """
        Start loading a model to replace the current one.

        :param settings: the folder, and how to run the model.
        :raises ValueError: if a model is already being loaded.
        """
        self._begin()
        self._in_thread(lambda: self._change(settings))

    def report_change_failure(self, folder: str, reason: object) -> None:
        """
        Report that a requested model cannot be used, and that the current model stays in use.

        :param folder: the folder that was requested.
        :param reason: why it is not used.
        """
        text = (
            f'model {folder!r} was requested and cannot be used: {reason}; '
            f'{self.describe()} stays in use'
        )
        self._logger.error(text)
        with self._lock:
            self._change_failure = Reason(ReasonCode.MODEL_CHANGE_FAILED, text)
        self._report()

    def fall_back(self, error: Exception) -> bool:
        """Load the model for torch on the CPU; see FallbackHandler."""
        from surgseg_ros.core.runtimes import TorchRuntime

        settings, segmenter = self._settings, self.segmenter
        if settings is None or segmenter is None or self._fallback_reason:
            return False
        runtime = segmenter.runtime
        if isinstance(runtime, TorchRuntime) and runtime.device.type == 'cpu':
            return False  # there is no simpler fallback
        if not self._loading.acquire(blocking=False):
            return False
        reason = f'{runtime.description} fails: {describe(error)}'
        self._logger.error(f'{reason}; no decision until the model is loaded on the CPU')
        plain = dataclasses.replace(settings, device='cpu', runtime='torch', precision='auto')
        self._in_thread(lambda: self._load_fallback(plain, segmenter, reason))
        return True

    def disable_batching(self, reason: str) -> None:
        """Report that a batch failed while its images succeeded one at a time."""
        self._logger.error(reason)
        with self._lock:
            self._batching_reason = Reason(ReasonCode.BATCHING_DISABLED, reason)
        self._report()

    def _import_torch(self, folder: str) -> None:
        """
        Import the libraries that run networks, the first time that a model is loaded.

        This takes seconds, in which a lifecycle manager must get responses. So it is done here and
        in `_load`, not at the top of a module.

        :param folder: the model folder; its errors are reported before torch is imported.
        """
        if 'torch' in sys.modules:
            return
        read_spec(find_model(folder))
        self._logger.info('importing PyTorch')
        with importing():  # before the model exists, which must stay collectable
            import surgseg_ros.core.self_test  # noqa: F401

    def _set_threads(self, count: int) -> None:
        import torch

        self._usual_threads = self._usual_threads or torch.get_num_threads()
        torch.set_num_threads(count or self._usual_threads)

    def _begin(self) -> None:
        if not self._loading.acquire(blocking=False):
            raise ValueError(
                'another model is being loaded: wait until it is in use or has failed'
            )

    def _in_thread(self, action: Callable[[], object]) -> None:
        """Load in a thread, and release the lock that was acquired for it."""

        def run() -> None:
            try:
                with contextlib.suppress(Exception):  # already reported
                    action()
            finally:
                self._loading.release()

        threading.Thread(target=run, name='load', daemon=True).start()

    def _change(self, settings: Settings) -> str:
        number = self._number
        try:
            segmenter, tested = self._load(settings)
            self._replace(number, segmenter, tested, settings)
        except Exception as error:
            if number == self._number:
                self.report_change_failure(settings.model, error)
            raise
        self._logger.info(f'the model is now {self.describe()}')
        return f'{self.describe()} on {segmenter.runtime.description}'

    def _load_fallback(self, plain: Settings, failed: Segmenter, reason: str) -> None:
        number = self._number
        try:
            segmenter, tested = self._load(plain)
            if segmenter.spec.weights_sha256 != failed.spec.weights_sha256:
                raise ValueError('the model folder now holds another model')
            text = f'{reason}; runs on the CPU instead, until ~/reload_model'
            fallback = Reason(ReasonCode.CPU_FALLBACK, text)
            self._replace(number, segmenter, tested, plain, fallback)
        except Exception as error:
            self._keep_failing(number, failed, f'{reason}; the CPU cannot take over: {error}')
            raise

    def _keep_failing(self, number: int, segmenter: Segmenter, reason: str) -> None:
        """Continue with the failing runtime, since the failure may be temporary."""
        self._logger.error(reason)
        with self._lock:
            if number != self._number:
                return
            self._fallback_reason = Reason(ReasonCode.DEVICE_FAILED, reason)
            self._use(segmenter)
        self._report()

    def _replace(
        self,
        number: int,
        segmenter: Segmenter,
        tested: bool,
        settings: Settings,
        fallback: Reason | None = None,
    ) -> None:
        """Replace the current model."""
        with self._lock:
            if number != self._number:
                raise ValueError('the node was cleaned up while the model was being loaded')
            self._settings, self.tested = settings, tested
            self._change_failure = self._batching_reason = None
            self._fallback_reason = fallback
            self._use(segmenter)
        self._report()

    def _use(self, segmenter: Segmenter) -> None:
        """Make the worker use a model; results of the previous one are discarded."""
        with self._generation.held(self._generation.number):
            self.segmenter, self.inference = segmenter, Inference(segmenter, self)
            self._on_change(self._degraded_reasons())

    def _load(self, settings: Settings) -> tuple[Segmenter, bool]:
        """Load, warm up and test a model; loading checks its hash and class table."""
        from surgseg_ros.core.segmenter import Segmenter
        from surgseg_ros.core.self_test import check_self_test

        started_s = time.monotonic()
        self._logger.info(f'loading {str(find_model(settings.model))!r}')
        with forward_logs(self._log):
            segmenter = Segmenter.load(
                settings.model,
                settings.device,
                settings.runtime,
                precision=settings.precision,
                max_batch_size=len(settings.cameras),
                quickest=True,
            )
        segmenter.warm_up()
        agreement = check_self_test(segmenter.spec, lambda image: segmenter.segment(image).mask)
        if agreement is None:
            self._logger.warning(
                f'{settings.model!r} has no self-test: it is not known whether its network '
                'computes the same here as after training; write the folder again with this '
                'release'
            )
        model = f'{segmenter.spec.name} on {segmenter.runtime.description}'
        self._logger.info(f'{model}, ready in {time.monotonic() - started_s:.1f} s')
        self._advise(segmenter)
        return segmenter, agreement is not None

    def _log(self, level: int, text: str) -> None:
        """Log what is reported while a model is loaded: the first time, it is converted."""
        if level < logging.WARNING:
            self._logger.info(text)
        else:
            self._logger.warning(text)

    def _advise(self, segmenter: Segmenter) -> None:
        """Log once how to use another model, if the current model limits the status."""
        reason = _DEGRADED_BY_USE.get(segmenter.spec.intended_use)
        if reason is not None and not self._advised:
            self._advised = True
            self._logger.warning(
                f'{reason.text}: status will be degraded at best ({reason.code.value}); for a '
                'model of your own: model:=FOLDER with ros2 launch, -p model:=FOLDER with ros2 '
                'run, or ros2 param set NODE model FOLDER while it runs'
            )
