# SPDX-License-Identifier: Apache-2.0
"""The model in use, and how another one takes its place: by wish, or where the machine fails."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from surgseg_ros.core.errors import describe
from surgseg_ros.core.model_folder import read_spec
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.system import importing
from surgseg_ros.node.inference import Inference
from surgseg_ros.node.mailbox import Generation
from surgseg_ros.node.parameters import Settings

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter


class Logger(Protocol):
    """What is needed of a logger."""

    def info(self, message: str) -> object:
        """Log what is worth knowing."""

    def warning(self, message: str) -> object:
        """Log what should be fixed."""

    def error(self, message: str) -> object:
        """Log what failed."""


class ModelSlot:
    """
    Holds one model from configure to cleanup; safe for several threads.

    Another model is loaded and tested in a thread of its own, while the present one works. What
    fails on that way leaves the present one where it is. Who owns what:

        SegmenterNode ── owns ──> ModelSlot ── owns ──> Inference ── owns ──> Segmenter
              │                       ^                    │ fall_back, disable_batching
              │                       └────────────────────┘
              └── owns ──> Worker ── reads `inference` before each batch

    The slot is the inference's FallbackHandler. The worker never keeps an inference beyond a
    batch, so that a model that was replaced can be freed. Locks are taken in this order, and none
    is held while waiting for another's owner: `_loading` (one load at a time), `_lock` (the
    slot's fields), the generation's (so that a model changes between two results, never while one
    is published), and last those of Health and Reporter.

    :param logger: the node's.
    :param generation: the node's.
    :param on_change: called with the new limits when another model takes over; the generation is
        held, so no result is published meanwhile.
    :param report: called after the model, or what is to be said of it, has changed.
    """

    def __init__(
        self,
        logger: Logger,
        generation: Generation,
        on_change: Callable[[tuple[Reason, ...]], None],
        report: Callable[[], None],
    ) -> None:
        """Begin empty."""
        self.segmenter: Segmenter | None = None
        self.inference: Inference | None = None
        """What the worker is to use from its next batch on."""
        self.tested = False
        """Whether the model has a self-test, which it then has passed."""
        self._logger = logger
        self._generation = generation
        self._on_change = on_change
        self._report = report
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._settings: Settings | None = None
        self._trouble: Reason | None = None
        self._fallen: Reason | None = None
        self._smaller: Reason | None = None
        self._number = 0
        self._usual_threads = 0

    def fill(self, settings: Settings) -> Segmenter:
        """
        Load the first model, and before the first of all the libraries that run it.

        :param settings: name the folder, and how it is run.
        :return: the model.
        :raises Exception: if it cannot be used, whatever folder, device and library say.
        """
        self._import_torch(settings.model)
        self._set_threads(settings.cpu_threads)
        segmenter, tested = self._load(settings)
        with self._lock:
            self._settings, self.tested = settings, tested
            self._trouble = self._fallen = self._smaller = None
            self.segmenter, self.inference = segmenter, Inference(segmenter, self)
        return segmenter

    def empty(self) -> None:
        """Give the model up; one that is being loaded will not be used."""
        with self._lock:
            self._number += 1
            self.segmenter = self.inference = self._settings = None
            self._trouble = self._fallen = self._smaller = None

    def degraded_reasons(self) -> tuple[Reason, ...]:
        """Say why masks of this model are never better than degraded."""
        with self._lock:
            return self._degraded_reasons()

    def _degraded_reasons(self) -> tuple[Reason, ...]:
        segmenter = self.segmenter
        demo = segmenter is not None and segmenter.spec.intended_use == 'demo'
        said = Reason(ReasonCode.MODEL_DEMO, 'the model is for demonstration only')
        reported = (said if demo else None, self._trouble, self._fallen, self._smaller)
        return tuple(reason for reason in reported if reason is not None)

    def is_settled(self, folder: str) -> bool:
        """
        Tell whether to ask for a folder would change nothing.

        :param folder: the one that was asked for last.
        :return: whether it is in use, is being loaded, or will be read at configure.
        """
        with self._lock:
            settings = self._settings
            in_use = settings is None or (settings.model == folder and not self._trouble)
        return in_use or self._loading.locked()

    def describe(self) -> str:
        """Give name and hash of the model; empty where there is none."""
        if (segmenter := self.segmenter) is None:
            return ''
        name = f'{segmenter.spec.name} ({segmenter.spec.weights_sha256[:12]})'
        return name if self.tested else f'{name}, no self-test'

    def change(self, settings: Settings) -> str:
        """
        Load a model in the place of the present one, and wait for it.

        :param settings: name the folder, and how it is run.
        :return: what runs now.
        :raises Exception: if it cannot be used; the present one goes on, and `degraded_reasons`
            say why.
        """
        self._begin()
        try:
            return self._change(settings)
        finally:
            self._loading.release()

    def change_soon(self, settings: Settings) -> None:
        """
        Begin to load a model in the place of the present one.

        :param settings: name the folder, and how it is run.
        :raises ValueError: if one is being loaded already.
        """
        self._begin()
        self._in_thread(lambda: self._change(settings))

    def complain(self, folder: str, reason: object) -> None:
        """
        Note that another model was asked for, and that the present one stays.

        :param folder: that was asked for.
        :param reason: why it is not used.
        """
        text = f'model {folder!r} was asked for and is not used: {reason}; {self.describe()} stays'
        self._logger.error(text)
        with self._lock:
            self._trouble = Reason(ReasonCode.MODEL_CHANGE_FAILED, text)
        self._report()

    def fall_back(self, error: Exception) -> bool:
        """See FallbackHandler."""
        from surgseg_ros.core.runtimes import TorchRuntime

        settings, segmenter = self._settings, self.segmenter
        if settings is None or segmenter is None or self._fallen:
            return False
        runtime = segmenter.runtime
        if isinstance(runtime, TorchRuntime) and runtime.device.type == 'cpu':
            return False  # there is nothing plainer
        if not self._loading.acquire(blocking=False):
            return False
        reason = f'{runtime.description} fails: {describe(error)}'
        self._logger.error(f'{reason}; no decision until the CPU has the model')
        plain = dataclasses.replace(settings, device='cpu', runtime='torch', precision='auto')
        self._in_thread(lambda: self._fall(plain, segmenter, reason))
        return True

    def disable_batching(self, reason: str) -> None:
        """See FallbackHandler."""
        self._logger.error(reason)
        with self._lock:
            self._smaller = Reason(ReasonCode.BATCHING_DISABLED, reason)
        self._report()

    def _import_torch(self, folder: str) -> None:
        """
        Import what runs networks, the first time that a model is loaded.

        It takes seconds, during which a lifecycle manager already has the node's answers: so it
        is done here and in `_load`, not at the top of a module.

        :param folder: of the model; what is wrong with it is told without waiting for torch.
        """
        if 'torch' in sys.modules:
            return
        read_spec(folder)
        self._logger.info('importing PyTorch')
        with importing():  # before the model is made, which has to go when another comes
            import surgseg_ros.core.self_test  # noqa: F401

    def _set_threads(self, count: int) -> None:
        import torch

        self._usual_threads = self._usual_threads or torch.get_num_threads()
        torch.set_num_threads(count or self._usual_threads)

    def _begin(self) -> None:
        if not self._loading.acquire(blocking=False):
            raise ValueError('another model is being loaded: wait until it is there, or refused')

    def _in_thread(self, act: Callable[[], object]) -> None:
        """Run what loads, and release the lock that was taken for it."""

        def run() -> None:
            try:
                with contextlib.suppress(Exception):  # said already
                    act()
            finally:
                self._loading.release()

        threading.Thread(target=run, name='load', daemon=True).start()

    def _change(self, settings: Settings) -> str:
        number = self._number
        try:
            segmenter, tested = self._load(settings)
            self._exchange(number, segmenter, tested, settings)
        except Exception as error:
            if number == self._number:
                self.complain(settings.model, error)
            raise
        self._logger.info(f'the model is now {self.describe()}')
        return f'{self.describe()} on {segmenter.runtime.description}'

    def _fall(self, plain: Settings, failed: Segmenter, reason: str) -> None:
        number = self._number
        try:
            segmenter, tested = self._load(plain)
            if segmenter.spec.weights_sha256 != failed.spec.weights_sha256:
                raise ValueError('the model folder holds another model by now')
            text = f'{reason}; runs on the CPU instead, until ~/reload_model'
            said = Reason(ReasonCode.CPU_FALLBACK, text)
            self._exchange(number, segmenter, tested, plain, said)
        except Exception as error:
            self._stay(number, failed, f'{reason}; the CPU cannot take over: {error}')
            raise

    def _stay(self, number: int, segmenter: Segmenter, reason: str) -> None:
        """Go on with what fails: it may be for a while only."""
        self._logger.error(reason)
        with self._lock:
            if number != self._number:
                return
            self._fallen = Reason(ReasonCode.DEVICE_FAILED, reason)
            self._use(segmenter)
        self._report()

    def _exchange(
        self,
        number: int,
        segmenter: Segmenter,
        tested: bool,
        settings: Settings,
        fallen: Reason | None = None,
    ) -> None:
        """Put a model in the place of the present one."""
        with self._lock:
            if number != self._number:
                raise ValueError('the node was cleaned up while the model was being loaded')
            self._settings, self.tested = settings, tested
            self._trouble = self._smaller = None
            self._fallen = fallen
            self._use(segmenter)
        self._report()

    def _use(self, segmenter: Segmenter) -> None:
        """Let the worker go on with a model; a result of the one before is discarded."""
        with self._generation.held(self._generation.number):
            self.segmenter, self.inference = segmenter, Inference(segmenter, self)
            self._on_change(self._degraded_reasons())

    def _load(self, settings: Settings) -> tuple[Segmenter, bool]:
        """Load, warm up and test a model; hash and class table are checked on the way."""
        from surgseg_ros.core.segmenter import Segmenter
        from surgseg_ros.core.self_test import check_self_test

        started_s = time.monotonic()
        self._logger.info(f'loading {settings.model!r}')
        segmenter = Segmenter.load(
            settings.model,
            settings.device,
            settings.runtime,
            precision=settings.precision,
            pictures=len(settings.camera_names),
        )
        segmenter.warm_up()
        agreement = check_self_test(
            segmenter.spec, lambda picture: segmenter.segment(picture).mask
        )
        if agreement is None:
            self._logger.warning(
                f'{settings.model!r} has no self-test: it is not known whether its network '
                'computes here what it learned; write the folder again with this release'
            )
        said = f'{segmenter.spec.name} on {segmenter.runtime.description}'
        self._logger.info(f'{said}, ready in {time.monotonic() - started_s:.1f} s')
        return segmenter, agreement is not None
