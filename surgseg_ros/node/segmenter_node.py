# SPDX-License-Identifier: Apache-2.0
"""The segmenter, a lifecycle node: images in, class masks and detections out."""

import time
from functools import partial
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from surgseg_ros.core.model_folder import DEFAULT_MODEL, find_model, read_spec
from surgseg_ros.core.parameters import AT_START, LIVE, TABLE
from surgseg_ros.core.processes import release_memory
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.node import parameters
from surgseg_ros.node.freshness import FailSafe, Generation
from surgseg_ros.node.health import CameraChannel, Frame
from surgseg_ros.node.image_subscriber import TYPE_NAMES, ImageSubscriber
from surgseg_ros.node.lifecycle import LifecycleNode, Ticker, Transition
from surgseg_ros.node.mailbox import Mailbox
from surgseg_ros.node.model_slot import ModelSlot
from surgseg_ros.node.other_publishers import (
    OtherPublishers,
    check_other_publishers,
    check_subscriptions,
)
from surgseg_ros.node.outputs import Outputs, StereoOutput, prefixed
from surgseg_ros.node.parameters import Settings, camera_info_topics, find_misspelled, overridable
from surgseg_ros.node.reporter import Reporter
from surgseg_ros.node.worker import Worker

FAIL_SAFE_PERIOD_S = 0.02


class SegmenterNode(LifecycleNode):
    """
    Segments the images of one or several cameras.

    Configure loads the model, activate subscribes; deactivate and cleanup undo this. Attributes
    that a transition creates are None or empty outside of it.
    """

    def __init__(self, **options: Any) -> None:
        """
        Declare the parameters and start to publish status and diagnostics.

        :param options: options of rclpy.node.Node.
        :raises ValueError: if the initial value of a parameter is not valid.
        """
        super().__init__('segmenter', **options)
        parameters.declare(self)
        self.settings = parameters.read(self)
        self._logged_misspelled: set[str] = set()
        self._report_misspelled()
        self.add_on_set_parameters_callback(self._on_parameters)
        self._generation = Generation()
        self._models = ModelSlot(
            self.get_logger(), self._generation, self._on_model_change, self._report_model
        )
        self._mailbox: Mailbox | None = None
        self._worker: Worker | None = None
        self._fail_safe: Ticker | None = None
        self._stereo: StereoOutput | None = None
        self._channels: tuple[CameraChannel, ...] = ()
        self._subscribers: tuple[ImageSubscriber, ...] = ()
        self._others: tuple[OtherPublishers, ...] = ()
        self._reporter = Reporter(
            self,
            lambda: self.settings.stale_after_ms,
            self._state_of_stereo,
            self._check_subscriptions,
        )
        self._reporter.set_cameras(self.settings.cameras)
        self._reporter.start()
        self.create_service(
            Trigger,
            '~/reload_model',
            self._on_reload,
            callback_group=MutuallyExclusiveCallbackGroup(),  # it must not block other callbacks
        )

    def set_parameters_atomically(self, parameter_list: list[Any]) -> SetParametersResult:
        """Set parameters as in rclpy, but accept unchanged values of any parameter."""
        changes = [parameter for parameter in parameter_list if not self._is_unchanged(parameter)]
        if parameter_list and not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load and warm up the model, create the outputs."""
        return self.attempt('configure', self._configure, undo=self._cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images."""
        return self.attempt(
            'activate', lambda: self._activate(state), undo=lambda: self._deactivate(state)
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; a result in progress is discarded."""
        return self._end('deactivate', lambda: self._deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything that configure created."""
        return self._end('cleanup', self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state."""
        result = self._end('shutdown', lambda: self._free(state))
        self._reporter.report_inactive(ReasonCode.SHUT_DOWN, 'shut down')
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, and return to the unconfigured state."""
        return self.attempt('recovery', lambda: self._free(state), undo=lambda: None)

    def report_failed(self, reason: str) -> None:
        """Log that a transition failed, and report it in `status`."""
        super().report_failed(reason)
        self._reporter.report_failed(reason)

    def stop(self) -> None:
        """Publish a last `inactive`; the model is freed with the process."""
        self._stopping = True
        self._generation.advance()
        if (fail_safe := self._fail_safe) is not None:
            fail_safe.stop()  # nothing may follow the last status
        self._reporter.stop('the process ends')

    def _configure(self) -> None:
        self.settings = settings = parameters.read(self)
        self._report_misspelled()  # topics and cameras may have changed since startup
        self._reporter.set_cameras(settings.cameras)
        self._reporter.report_inactive(ReasonCode.CONFIGURING, 'configuring')
        if not settings.model:
            raise ValueError(
                "model is '': set the parameter to a folder (model:=FOLDER with ros2 launch, "
                f'-p model:=FOLDER with ros2 run), or to {DEFAULT_MODEL!r}, the shipped model'
            )
        self._models.fill(settings)
        self._mailbox = Mailbox(settings.pairs, self._count_dropped)
        self._create_outputs()
        self._worker = Worker(
            self._models,
            self._mailbox,
            self._channels,
            self._generation,
            lambda: self.settings.policy,
            lambda: self.get_clock().now().nanoseconds,
            self.get_logger(),
            settings.pipeline,
            self._reporter.publish_status,
            settings.stereo_layout,
        )
        self._worker.start()
        fail_safe = FailSafe(self._channels, self._generation, lambda: self.settings.policy)
        self._fail_safe = Ticker(
            'fail safe', FAIL_SAFE_PERIOD_S, fail_safe.check, self._report_fail_safe_error
        )
        self._fail_safe.start()
        self._report_model()
        self._reporter.failed = False
        self._reporter.report_inactive(ReasonCode.NOT_ACTIVE, 'configured, not active')

    def _create_outputs(self) -> None:
        self._stereo = self._make_stereo()
        if self._stereo is not None:
            self._stereo.create()
        self._channels = tuple(
            self._make_channel(index) for index in range(len(self.settings.cameras))
        )
        for channel in self._channels:
            channel.outputs.create()
        self._others = tuple(self._other_publishers(channel) for channel in self._channels)
        for others in self._others:
            others.start()

    def _report_model(self) -> None:
        """Report the model, its device, and why its masks are degraded."""
        segmenter = self._models.segmenter
        self._reporter.model = self._models.describe()
        self._reporter.device = segmenter.runtime.description if segmenter else ''
        for health in self._reporter.healths:
            health.set_degraded_reasons(self._models.degraded_reasons())

    def _on_model_change(self, degraded_reasons: tuple[Reason, ...]) -> None:
        """Report that the last mask is not from the current model, and reset its results."""
        if self._stereo is not None:
            self._stereo.forget()
        for channel in self._channels:
            channel.health.record_model_change(degraded_reasons)

    def _activate(self, state: LifecycleState) -> None:
        generation = self._generation.advance()
        for channel in self._channels:
            channel.health.activate(time.monotonic_ns(), self._models.degraded_reasons())
            channel.outputs.publish_label_info(self.get_clock().now().nanoseconds)
        super().on_activate(state)
        self._subscribers = tuple(
            self._make_subscriber(index, generation)
            for index in range(len(self.settings.image_topics))
        )
        for subscriber in self._subscribers:
            subscriber.start()
        self._reporter.failed = False

    def _deactivate(self, state: LifecycleState) -> None:
        self._generation.advance()
        subscribers, self._subscribers = self._subscribers, ()
        for subscriber in subscribers:
            subscriber.stop()
        if self._mailbox is not None:
            self._mailbox.clear()
        if self._stereo is not None:
            self._stereo.forget()
        super().on_deactivate(state)
        self._reporter.report_inactive(ReasonCode.NOT_ACTIVE, 'not active')

    def _cleanup(self) -> None:
        if self._mailbox is not None:
            self._mailbox.close()
        if self._worker is not None:
            self._worker.join()
        if self._fail_safe is not None:
            self._fail_safe.stop()
        others, self._others = self._others, ()
        for publishers in others:
            publishers.stop()
        channels, self._channels = self._channels, ()
        for channel in reversed(channels):
            channel.outputs.destroy()
        if self._stereo is not None:
            self._stereo.destroy()
        self._stereo = self._worker = self._fail_safe = self._mailbox = None
        self._models.empty()
        release_memory()
        self._report_model()
        self._reporter.report_inactive(ReasonCode.NOT_CONFIGURED, 'not configured')

    def _free(self, state: LifecycleState) -> None:
        self._deactivate(state)
        self._cleanup()

    def _end(self, name: str, action: Any) -> TransitionCallbackReturn:
        """Run a transition that releases resources; a failure leads to `on_error`."""
        return self.attempt(name, action, undo=lambda: None, otherwise=Transition.ERROR)

    def _make_stereo(self) -> StereoOutput | None:
        """Create the output that joins the results of two cameras; None for other numbers."""
        settings = self.settings
        if len(settings.cameras) != 2:
            return None
        topics = settings.camera_info_topics
        if not any(topics):
            images = [self.resolve_topic_name(topic) for topic in settings.image_topics]
            topics = camera_info_topics(images, settings.cameras if settings.is_split else ())
        return StereoOutput(self, topics, settings.rectified, settings.pair_tolerance_ms)

    def _state_of_stereo(self) -> str | None:
        stereo = self._stereo  # another thread may set it to None
        return None if stereo is None else stereo.state

    def _make_channel(self, index: int) -> CameraChannel:
        settings, stereo = self.settings, self._stereo
        name, health = settings.cameras[index], self._reporter.healths[index]
        return CameraChannel(
            name,
            TYPE_NAMES[settings.image_transport],
            settings.roi_of(index),
            health,
            Outputs(
                self,
                name,
                settings.overlay,
                raw_mask=settings.steady_frames > 1,
                observe=None if stereo is None else partial(stereo.receive, index),
                measure=health.record_distances if settings.report_distances else None,
            ),
        )

    def _other_publishers(self, channel: CameraChannel) -> OtherPublishers:
        status = prefixed(channel.name, 'status')
        topics = [*channel.outputs.topics(), status]
        return OtherPublishers(self, topics, status, self._reporter.instance)

    def _make_subscriber(self, index: int, generation: int) -> ImageSubscriber:
        settings, mailbox = self.settings, self._mailbox

        def receive(cdr: bytes, age_ns: int) -> None:
            frame = Frame(index, cdr, time.monotonic_ns(), age_ns, generation)
            if mailbox is not None:
                mailbox.put(frame)

        return ImageSubscriber(
            self,
            settings.image_topics[index],
            settings.image_transport,
            settings.reliability,
            [channel.health for channel in self._channels_of(index)],
            receive,
            self._reporter.check_soon,
        )

    def _count_dropped(self, frame: Frame) -> None:
        for channel in self._channels_of(frame.camera):
            channel.health.count('dropped')

    def _channels_of(self, topic: int) -> tuple[CameraChannel, ...]:
        """Return the cameras whose views are in the images of a topic."""
        return self._channels if self.settings.is_split else self._channels[topic : topic + 1]

    def _report_fail_safe_error(self, error: Exception) -> None:
        text = f'fail_safe failed: {type(error).__name__}: {error}'
        self.get_logger().error(text, throttle_duration_sec=10.0)

    def _check_subscriptions(self) -> None:
        limit_s = self.settings.no_image_warning_s
        check_subscriptions(self._subscribers, limit_s, self.get_logger())
        check_other_publishers(self._channels, self._others, self.get_logger())

    def _report_misspelled(self) -> None:
        """Warn once about each value that was given on startup and has no effect."""
        known = overridable(self, self.settings)
        for text in find_misspelled(self, known):
            if text not in self._logged_misspelled:
                self._logged_misspelled.add(text)
                self.get_logger().warning(text)

    def _is_unchanged(self, parameter: Any) -> bool:
        """Return whether a parameter already has this value, and the value is in use."""
        name = parameter.name
        if not self.has_parameter(name):
            return False
        if self.get_parameter(name).get_parameter_value() != parameter.get_parameter_value():
            return False
        return name != 'model' or self._models.is_in_use(parameter.value)

    def _on_parameters(self, changed: list[Any]) -> SetParametersResult:
        """Accept changes of live parameters, and of others while the node is unconfigured."""
        present = {row.name: self.settings.value_of(row.name) for row in TABLE}
        wanted = {change.name: change.value for change in changed if change.name in present}
        configured = self._models.segmenter is not None
        if not wanted.keys().isdisjoint(AT_START):
            reason = 'autostart: read once, when the process starts; it cannot be changed later'
            return SetParametersResult(successful=False, reason=reason)
        fixed = sorted(wanted.keys() - LIVE - ({'model'} if configured else set()))
        if (fixed and configured) or (wanted.keys() - LIVE and self.in_transition()):
            names = ', '.join(fixed or ['model'])
            reason = (
                f'{names}: can only be changed while the node is unconfigured: deactivate and '
                f'cleanup first (ros2 lifecycle set {self.get_fully_qualified_name()} deactivate)'
            )
            return SetParametersResult(successful=False, reason=reason)
        try:
            settings = Settings.from_values({**present, **wanted})
            if configured and 'model' in wanted:
                self._begin_change(settings)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.settings = settings
        return SetParametersResult(successful=True)

    def _begin_change(self, settings: Settings) -> None:
        """Check a model folder and start loading it; the current model stays in use."""
        try:
            read_spec(find_model(settings.model))
            self._models.change_soon(settings)
        except ValueError as error:
            self._models.report_change_failure(settings.model, error)
            raise

    def _on_reload(self, request: Any, response: Any) -> Any:
        """Load the folder in `model` again to replace the current model; respond when done."""
        response.success = False
        if self._models.segmenter is None or self.in_transition():
            response.message = 'no model is in use: configure the node to load it'
            return response
        try:
            response.message = self._models.change(self.settings)
            response.success = True
        except Exception as error:  # of any kind: from a model, a device or a library
            response.message = str(error)
        return response
