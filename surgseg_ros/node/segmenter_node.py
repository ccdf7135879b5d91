# SPDX-License-Identifier: Apache-2.0
"""The segmenter node: images in, class masks and detections out, with a life cycle."""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node import parameters
from surgseg_ros.node.health import Health
from surgseg_ros.node.intake import TYPE_NAMES, Intake
from surgseg_ros.node.mailbox import Frame, Mailbox
from surgseg_ros.node.outputs import Outputs
from surgseg_ros.node.parameters import LIVE, Settings
from surgseg_ros.node.reports import Diagnostics, StatusReport
from surgseg_ros.node.ticker import Ticker
from surgseg_ros.node.worker import Eye, Generation, Worker

Transition = TransitionCallbackReturn


class SegmenterNode(LifecycleNodeMixin, Node):
    """
    Configure loads the model, activate subscribes; deactivate and cleanup undo them.

    At rest everything that a transition makes is None or empty.
    """

    def __init__(self, **options: Any) -> None:
        """
        Declare the parameters and begin to report.

        :param options: for rclpy.node.Node.
        :raises ValueError: if a parameter's first value does not fit.
        """
        Node.__init__(self, 'segmenter', **options)
        # A group of its own: the node answers `get_state` while a transition takes its time.
        LifecycleNodeMixin.__init__(
            self, enable_communication_interface=True, callback_group=ReentrantCallbackGroup()
        )
        parameters.declare(self)
        self.settings = parameters.read(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._transition = threading.Lock()
        self._generation = Generation()
        self._segmenter: Segmenter | None = None
        self._mailbox: Mailbox | None = None
        self._worker: Worker | None = None
        self._eyes: tuple[Eye, ...] = ()
        self._intakes: tuple[Intake, ...] = ()
        self._failed = False
        self._names: tuple[str, ...] = ()
        self._healths: tuple[Health, ...] = ()
        self._reports: tuple[StatusReport, ...] = ()
        self._report_cameras()
        self._diagnostics = Diagnostics(self)
        self._status_ticker = Ticker('status', 0.05, self._tell_status, self._complain)
        self._upkeep_ticker = Ticker('upkeep', 1.0, self._upkeep, self._complain)
        self._status_ticker.start()
        self._upkeep_ticker.start()

    # Transitions. rclpy swallows what they raise, so each says it and returns FAILURE.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load and warm up the model, create the outputs."""
        return self._attempt('configure', self._configure, undo=self._cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images."""
        return self._attempt('activate', lambda: self._activate(state), undo=self._deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; a result in flight is discarded."""
        self._deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything that configure made."""
        self._cleanup()
        return Transition.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from whatever state."""
        self._deactivate()
        self._cleanup()
        self._say_inactive('shut down')
        return Transition.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, and be as at the start."""
        self._deactivate()
        self._cleanup()
        return Transition.SUCCESS

    def start_by_itself(self) -> None:
        """Configure and activate; what fails is in the log and in /diagnostics."""
        with self._transition:
            if self.trigger_configure() == Transition.SUCCESS:
                self.trigger_activate()

    def stop(self) -> None:
        """Say `inactive` to the last listener, and free everything."""
        self._deactivate()
        self._upkeep_ticker.stop()
        self._status_ticker.stop()
        self._say_inactive('the process ends')
        self._tell_status()
        for report in self._reports:
            report.flush(timeout_s=1.0)
        self._cleanup()

    def _attempt(
        self, name: str, act: Callable[[], None], undo: Callable[[], None]
    ) -> TransitionCallbackReturn:
        try:
            act()
        except Exception as error:  # swallowed by rclpy if raised
            undo()
            self._failed = True
            self._say_inactive(f'{name} failed: {error}')
            self.get_logger().error(f'{name} failed: {error}')
            return Transition.FAILURE
        self._failed = False
        self._status_ticker.soon()
        return Transition.SUCCESS

    def _configure(self) -> None:
        self.settings = settings = parameters.read(self)
        self._say_inactive('configuring')
        if not settings.model:
            raise ValueError(
                "model is '': set the parameter to a model folder (model:=FOLDER with "
                'ros2 launch, -p model:=FOLDER with ros2 run)'
            )
        if settings.cpu_threads:
            torch.set_num_threads(settings.cpu_threads)
        started_s = time.monotonic()
        self.get_logger().info(f'loading {settings.model!r}')
        segmenter = Segmenter.load(settings.model, settings.device, settings.runtime)
        segmenter.warm_up()
        self._segmenter = segmenter
        self._report_cameras()
        self._mailbox = Mailbox()
        self._eyes = tuple(self._make_eye(index) for index in range(len(self._names)))
        self._worker = Worker(
            segmenter,
            self._mailbox,
            self._eyes,
            self._generation,
            lambda: self.settings.least_area,
            self.get_logger(),
        )
        self._worker.start()
        self._say_inactive('configured, not active')
        elapsed_s = time.monotonic() - started_s
        self.get_logger().info(
            f'model {self._model()} on {segmenter.runtime.description}, ready in {elapsed_s:.1f} s'
        )

    def _activate(self, state: LifecycleState) -> None:
        generation = self._generation.advance()
        for eye in self._eyes:
            eye.health.activate(time.monotonic_ns(), self._limits())
            eye.outputs.announce(self.get_clock().now().nanoseconds)
        super().on_activate(state)
        self._intakes = tuple(
            self._make_intake(index, generation) for index in range(len(self._names))
        )
        for intake in self._intakes:
            intake.start()

    def _deactivate(self) -> None:
        self._generation.advance()
        intakes, self._intakes = self._intakes, ()
        for intake in intakes:
            intake.stop()
        if self._mailbox is not None:
            self._mailbox.clear()
        self._say_inactive('not active')

    def _cleanup(self) -> None:
        if self._mailbox is not None:
            self._mailbox.close()
        if self._worker is not None:
            self._worker.join()
        eyes, self._eyes = self._eyes, ()
        for eye in reversed(eyes):
            eye.outputs.destroy()
        self._worker = self._mailbox = self._segmenter = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self._say_inactive('not configured')

    def _make_eye(self, index: int) -> Eye:
        settings, name = self.settings, self._names[index]
        return Eye(
            name,
            TYPE_NAMES[settings.image_transport],
            settings.roi_of(index),
            self._healths[index],
            Outputs(self, name, settings.overlay),
        )

    def _make_intake(self, index: int, generation: int) -> Intake:
        settings, health, mailbox = self.settings, self._healths[index], self._mailbox

        def receive(cdr: bytes, age_ns: int) -> None:
            frame = Frame(index, cdr, time.monotonic_ns(), age_ns, generation)
            if mailbox is not None and mailbox.put(frame):
                health.count('dropped')

        return Intake(
            self,
            settings.image_topics[index],
            settings.image_transport,
            settings.reliability,
            health,
            receive,
            self._upkeep_ticker.soon,
        )

    # Reports; called by the tickers.

    def _report_cameras(self) -> None:
        """Make the reports of the cameras that the settings name, where they are others."""
        if self.settings.camera_names == self._names and self._reports:
            return
        for report in self._reports:
            report.destroy()
        self._names = self.settings.camera_names
        self._healths = tuple(Health() for _ in self._names)
        self._reports = tuple(
            StatusReport(self, name, health)
            for name, health in zip(self._names, self._healths, strict=True)
        )

    def _tell_status(self) -> None:
        for report in self._reports:
            report.publish(self.settings.stale_after_ms, self._model())

    def _upkeep(self) -> None:
        for intake, health in zip(self._intakes, self._healths, strict=False):
            intake.look()
            self._say_silence(intake, health)
        facts = {'device': self._segmenter.runtime.description if self._segmenter else ''}
        self._diagnostics.publish(
            [
                report.diagnostics(
                    self.settings.stale_after_ms, self._model(), facts, self._failed
                )
                for report in self._reports
            ]
        )

    def _say_silence(self, intake: Intake, health: Health) -> None:
        silent_ns = health.silent_for_ns(time.monotonic_ns())
        limit_s = self.settings.no_image_warning_s
        if silent_ns is None or silent_ns < limit_s * 1e9:
            return
        explanation = intake.explain_silence()
        if health.first_time(explanation):
            self.get_logger().warning(f'no image for {limit_s:g} s: {explanation}')

    def _say_inactive(self, reason: str) -> None:
        for health in self._healths:
            health.deactivate(reason)
        self._status_ticker.soon()

    def _model(self) -> str:
        segmenter = self._segmenter
        if segmenter is None:
            return ''
        return f'{segmenter.spec.name} ({segmenter.spec.weights_sha256[:12]})'

    def _limits(self) -> tuple[str, ...]:
        demo = self._segmenter is not None and self._segmenter.spec.intended_use == 'demo'
        return ('the model is for demonstration only',) if demo else ()

    def _complain(self, error: Exception) -> None:
        self.get_logger().error(
            f'reporting failed: {type(error).__name__}: {error}', throttle_duration_sec=10.0
        )

    # Parameters and services.

    def _on_parameters(self, changed: list[Any]) -> SetParametersResult:
        """Take changes that are live, or that come while nothing is configured."""
        present = {row.name: getattr(self.settings, row.name) for row in parameters.TABLE}
        wanted = {change.name: change.value for change in changed if change.name in present}
        fixed = sorted(wanted.keys() - LIVE)
        if fixed and self._segmenter is not None:
            reason = f'{", ".join(fixed)}: read at configure; deactivate and cleanup first'
            return SetParametersResult(successful=False, reason=reason)
        try:
            settings = Settings.from_values({**present, **wanted})
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.settings = settings
        return SetParametersResult(successful=True)

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        """
        Answer a request for a transition, also one that is not possible.

        rclpy's own method raises there, in the executor, and the caller waits for ever; it also
        lets a second transition begin during one. It has no public hook, hence the name.
        """
        handle = super()._LifecycleNodeMixin__on_change_state
        response.success = False
        if not self._transition.acquire(blocking=False):
            self.get_logger().warning('transition refused: another one is in progress')
            return response
        try:
            return handle(request, response)
        except Exception as error:  # rclpy's RCLError is not public everywhere
            self.get_logger().warning(f'transition refused: {error}')
            return response
        finally:
            self._transition.release()
