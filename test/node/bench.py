# SPDX-License-Identifier: Apache-2.0
"""Shared helpers for tests of the node: a bench that communicates with it over DDS."""

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import header, to_cdr
from surgseg_ros.node.middleware import local_discovery

# For pytest without make; `make test` sets both.
for name, value in local_discovery(os.environ).items():
    os.environ.setdefault(name, value)
os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 300.0  # importing torch is slow on a busy machine
FRAME_ID = '/endoscope left'


def until(holds: Callable[[], Any], what: str) -> Any:
    """Poll until a condition holds that has no event, and return its value."""
    end_s = time.monotonic() + TIMEOUT_S
    while not (result := holds()):
        assert time.monotonic() < end_s, f'not within {TIMEOUT_S:g} s: {what}'
        time.sleep(0.005)
    return result


def make_image(seed: int = 0, height: int = 48, width: int = 80) -> np.ndarray:
    """Make (H, W, 3) uint8 RGB with some structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((height // 6 + 1, width // 8 + 1, 1), np.uint8))[
        :height, :width
    ]


def image_cdr(pixels: np.ndarray, stamp_ns: int, frame_id: str = FRAME_ID) -> bytes:
    return to_cdr(image_to_msg(pixels, header(stamp_ns, frame_id)))


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


class TopicRecorder:
    """Records the messages of a topic."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._news = threading.Condition()

    def receive(self, message: Any) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def wait(
        self, wanted: Callable[[Any], Any] = bool, timeout_s: float = TIMEOUT_S, since: int = 0
    ) -> Any:
        """Wait for a matching message; None on timeout."""

        def found() -> Any:
            return next((m for m in self.messages[since:] if wanted(m)), None)

        with self._news:
            return self._news.wait_for(found, timeout_s)

    def wait_for_stamp(self, wanted_ns: int) -> Any:
        message = self.wait(lambda m: stamp_ns(m) == wanted_ns)
        assert message is not None, f'no message with stamp {wanted_ns}'
        return message

    def wait_for_text(self, text: str) -> str:
        line = self.wait(lambda line: text in line)
        assert line, f'{text!r} is not in {self.messages}'
        return line

    def wait_for_state(self, state: str, since: int = 0) -> DiagnosticStatus:
        message = self.wait(lambda m: m.message == state, since=since)
        assert message is not None, f'never {state}: {[m.message for m in self.messages]}'
        return message

    def wait_for_reason(self, state: str, reason: str, since: int = 0) -> DiagnosticStatus:
        """Wait for a status with this reason; others of the same state may come before."""
        message = self.wait(
            lambda m: m.message == state and reason in m.values[0].value, since=since
        )
        heard = [(m.message, m.values[0].value) for m in self.messages[since:]]
        assert message is not None, f'never {state} with {reason!r}: {heard}'
        return message


class DiagnosticsPart(NamedTuple):
    name: str
    level: bytes
    message: str
    numbers: dict[str, str]
    hardware_id: str


class Bench:
    """The peer of the node: its own context, cameras, subscriptions and service clients."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node('bench', namespace=namespace, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self._stamps_s = itertools.count(1)
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def new_stamp_ns(self) -> int:
        return next(self._stamps_s) * 10**9 + 123_456_789

    def listen(self, message_type: type, topic: str, **qos: Any) -> TopicRecorder:
        recorder = TopicRecorder()
        profile = QoSProfile(**{'depth': 100, **qos})
        recorder.subscription = self.node.create_subscription(
            message_type, topic, recorder.receive, profile
        )
        return recorder

    def stop_listening(self, recorder: TopicRecorder) -> None:
        self.node.destroy_subscription(recorder.subscription)

    def status(self, topic: str = 'status', **qos: Any) -> TopicRecorder:
        latched = DurabilityPolicy.TRANSIENT_LOCAL
        return self.listen(DiagnosticStatus, topic, durability=latched, **qos)

    def diagnostics(self) -> TopicRecorder:
        """Record this node's parts of /diagnostics, one by one."""
        recorder = TopicRecorder()
        name = f'{self.namespace.lstrip("/")}/segmenter'

        def receive(array: DiagnosticArray) -> None:
            for status in array.status:
                if status.name.startswith(name):
                    numbers = {value.key: value.value for value in status.values}
                    reported = (
                        status.name,
                        status.level,
                        status.message,
                        numbers,
                        status.hardware_id,
                    )
                    recorder.receive(DiagnosticsPart(*reported))

        self.node.create_subscription(DiagnosticArray, '/diagnostics', receive, 10)
        return recorder

    def logs(self) -> TopicRecorder:
        """Record the log messages of this node."""
        recorder = TopicRecorder()
        name = f'{self.namespace.lstrip("/")}.segmenter'.replace('/', '.')
        qos = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(
            Log,
            '/rosout',
            lambda log: recorder.receive(log.msg) if log.name == name else None,
            qos,
        )
        return recorder

    def camera(self, topic: str = 'image', message_type: type = Image, best_effort: bool = False):
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        qos = QoSProfile(depth=20, reliability=reliability)
        return self.node.create_publisher(message_type, topic, qos)

    def readers(self, topic: str = 'image') -> list[ReliabilityPolicy]:
        infos = self.node.get_subscriptions_info_by_topic(topic)
        return [info.qos_profile.reliability for info in infos]

    def connect(self, camera: Any, mask: TopicRecorder) -> None:
        """Send frames until masks come back: then both directions are connected."""
        wanted = camera.qos_profile.reliability
        # A killed node may still be listed beside it.
        until(lambda: wanted in self.readers(camera.topic_name), 'the node listens')

        def answered() -> Any:
            sent_ns = self.new_stamp_ns()
            camera.publish(image_cdr(make_image(), sent_ns))
            return mask.wait(lambda m: stamp_ns(m) >= sent_ns, timeout_s=1.0)

        until(answered, 'a mask of an image')

    def call_async(self, service_type: type, name: str, request: Any) -> tuple[Any, Any]:
        """Call a service; return the future, and an event that is set on its response."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
        assert self._clients[name].wait_for_service(timeout_sec=TIMEOUT_S), f'no service {name}'
        answered = threading.Event()
        future = self._clients[name].call_async(request)
        future.add_done_callback(lambda _: answered.set())
        return future, answered

    def call(self, service_type: type, name: str, request: Any) -> Any:
        future, answered = self.call_async(service_type, name, request)
        assert answered.wait(TIMEOUT_S), f'no response of {name}'
        return future.result()

    def state(self) -> str:
        return self.call(GetState, 'segmenter/get_state', GetState.Request()).current_state.label

    def change_async(self, label: str) -> tuple[Any, Any]:
        request = ChangeState.Request(transition=Transition(label=label))
        return self.call_async(ChangeState, 'segmenter/change_state', request)

    def change(self, label: str) -> bool:
        future, answered = self.change_async(label)
        assert answered.wait(TIMEOUT_S), f'no response to {label}'
        return future.result().success

    def set(self, **values: Any) -> Any:
        parameters = [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        name = 'segmenter/set_parameters_atomically'
        return self.call(SetParametersAtomically, name, request).result
