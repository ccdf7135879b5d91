# SPDX-License-Identifier: Apache-2.0
"""A bag played by a process over DDS arrives as it was recorded."""

import contextlib
import importlib
import itertools
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from started import running

from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import START_TIME_NS, BagWriter
from surgseg_ros.cli.bag_player import main
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, TYPES, header, to_cdr
from surgseg_ros.node import entry_points
from surgseg_ros.node.bag_player import Player

HEADER = 'std_msgs/msg/Header'
STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
CLOCK = 'rosgraph_msgs/msg/Clock'
PERIOD_NS = 10**8
TIMEOUT_S = 300.0


class Listener:
    """Records the serialized messages of some topics, in the order of arrival."""

    def __init__(self, topics):
        self.received = {topic: [] for topic in topics}
        self._news = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node('listener', context=self._context)
        for topic, type_name in topics.items():
            package, _, name = type_name.split('/')
            kind = getattr(importlib.import_module(f'{package}.msg'), name)
            qos = QoSProfile(depth=1000)
            self._node.create_subscription(kind, topic, self._keeper(topic), qos, raw=True)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _keeper(self, topic):
        def keep(cdr):
            with self._news:
                self.received[topic].append(bytes(cdr))
                self._news.notify_all()

        return keep

    def wait_for(self, topic, count):
        """Wait for `count` messages of a topic, and return them."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.received[topic]) >= count, TIMEOUT_S)
            return list(self.received[topic])

    def close(self):
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def listen():
    with contextlib.ExitStack() as listeners:

        def start(topics):
            return listeners.enter_context(contextlib.closing(Listener(topics)))

        yield start


@pytest.fixture
def play():
    """Yield a function that starts the player; players still running after the test are killed."""
    with contextlib.ExitStack() as processes:

        def start(*arguments):
            command = [sys.executable, '-m', 'surgseg_ros', 'bag_player', *map(str, arguments)]
            pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
            return processes.enter_context(running(command, **pipes))

        yield start


def _finish(process):
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out, err


def _padded(cdr):
    """Pad to a multiple of four bytes, as DDS does in transit."""
    return cdr + bytes(-len(cdr) % 4)


def _image(index):
    """Serialize an image whose frame_id, of the same length, is not UTF-8."""
    pixels = np.arange(index, index + 18, dtype=np.uint8).reshape(2, 3, 3)
    cdr = to_cdr(image_to_msg(pixels, header(START_TIME_NS + index, 'endoscope')))
    return _padded(cdr.replace(b'endoscope', b'\xff\xfe\x80oscope'))


def _compressed(index):
    data = np.arange(index, dtype=np.uint8)
    return _padded(to_cdr(TYPES.types[COMPRESSED_IMAGE](header(index), 'no jpeg', data)))


@pytest.fixture
def bag_path(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(6):
            now_ns = START_TIME_NS + index * PERIOD_NS
            bag.write('/camera/image_raw', IMAGE, _image(index), now_ns)
            bag.write('/camera/image_raw/compressed', COMPRESSED_IMAGE, _compressed(index), now_ns)
            bag.write('/header', HEADER, header(index), now_ns)
    return tmp_path / 'bag'


IMAGES = [_image(index) for index in range(6)]


def test_all_images_arrive_unchanged_and_in_order(bag_path, listen, play):
    topics = {
        '/camera/image_raw': IMAGE,
        '/camera/image_raw/compressed': COMPRESSED_IMAGE,
        '/header': HEADER,
    }
    listener = listen(topics)
    status, out, err = _finish(play(bag_path, '--wait'))
    assert (status, err) == (0, '')
    assert listener.wait_for('/camera/image_raw', 6) == IMAGES
    assert listener.wait_for('/camera/image_raw/compressed', 6) == list(map(_compressed, range(6)))
    assert listener.received['/header'] == []
    assert '12 messages published (/camera/image_raw 6, /camera/image_raw/compressed 6)' in out
    counts = '/camera/image_raw 1, /camera/image_raw/compressed 1'
    assert f'acknowledged (subscribers: {counts})' in out


def test_without_a_subscriber_nothing_is_acknowledged(bag_path, play):
    status, out, err = _finish(play(bag_path, '--rate', 100))
    assert (status, err) == (0, '')
    assert ' 12 messages published' in out
    assert 'there was no subscriber' in out
    assert 'acknowledged' not in out


@pytest.fixture
def signals_of_pytest(monkeypatch):
    """Let pytest receive Ctrl-C, during a test that plays a bag in this process and after it."""
    monkeypatch.setattr(signal, 'pthread_sigmask', lambda *_: None)
    handlers = {number: signal.getsignal(number) for number in entry_points.SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures('signals_of_pytest')
def test_player_reports_which_topic_it_waits_for(bag_path, monkeypatch, capsys):
    monkeypatch.setattr(entry_points, 'REMINDER_S', 0.02)
    heard = {'/camera/image_raw': 1, '/camera/image_raw/compressed': 0}
    monkeypatch.setattr(Publisher, 'get_subscription_count', lambda p: heard[p.topic_name])
    assert main([str(bag_path), '--wait', '0.1']) == 1
    captured = capsys.readouterr()
    assert 'still waiting for a subscriber of /camera/image_raw/compressed: ' in captured.out
    assert '--topics' in captured.out
    assert 'no subscriber of /camera/image_raw/compressed after 0.1 s' in captured.err


def test_plays_selected_topics_and_remaps_them(bag_path, listen, play):
    listener = listen({'/left/head': HEADER})
    remapping = ('--ros-args', '-r', '/header:=/left/head')
    process = play(bag_path, '--topics', '/header', '--rate', 4, '--wait', *remapping)
    status, out, err = _finish(process)
    assert (status, err) == (0, '')
    found = listener.wait_for('/left/head', 6)
    assert found == [_padded(to_cdr(header(index))) for index in range(6)]
    assert '/left/head 6' in out


def test_optional_topics_may_be_missing_and_are_not_waited_for(bag_path, listen, play):
    """`replay.launch.py` plays camera_info so: a bag may lack it, and a node may not need it."""
    listener = listen({'/camera/image_raw': IMAGE})
    words = '--topics', '/camera/image_raw', '--also', '/header', '/camera/camera_info', '--wait'
    status, out, err = _finish(play(bag_path, *words, '--rate', 10))
    assert (status, err) == (0, '')
    assert listener.wait_for('/camera/image_raw', 6) == IMAGES
    assert '12 messages published (/camera/image_raw 6, /header 6)' in out


def test_a_late_subscriber_gets_the_last_message_of_a_latched_topic(tmp_path, play, listen):
    status_type = TYPES.types[STATUS]
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(3):
            message = status_type(level=0, name='', message=str(index), hardware_id='', values=[])
            bag.write('/status', STATUS, message, index)
        bag.write('/later', HEADER, header(1), 600 * 10**9)
    process = play(tmp_path / 'bag', '--topics', '/status', '/later')
    assert process.stdout.readline().startswith('bag_player: playing')
    kind = importlib.import_module('diagnostic_msgs.msg').DiagnosticStatus
    listener = listen({})
    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    listener.received['/status'] = []
    listener._node.create_subscription(kind, '/status', listener._keeper('/status'), qos, raw=True)
    assert TYPES.deserialize_cdr(listener.wait_for('/status', 3)[-1], STATUS).message == '2'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_loop_continues_until_a_signal(bag_path, listen, play, number):
    listener = listen({'/camera/image_raw': IMAGE})
    process = play(bag_path, '--topics', '/camera/image_raw', '--rate', 5, '--loop', '--wait')
    found = listener.wait_for('/camera/image_raw', 14)
    for _ in range(3):  # Ctrl-C pressed repeatedly
        process.send_signal(number)
    status, out, err = _finish(process)
    assert (status, err) == (0, '')
    assert 'stopped' in out
    assert found == list(itertools.islice(itertools.cycle(IMAGES), len(found)))


OLDER_THREAD = """
import signal, threading
from surgseg_ros.node import entry_points
idle = threading.Thread(target=threading.Event().wait, daemon=True)
idle.start()
def session(options, arguments, stop):
    for _ in range(3):
        signal.pthread_kill(idle.ident, signal.SIGTERM)
    return 0 if stop.wait(60) else 1
entry_points._session = session
print(entry_points.play_bag(None, []))
"""
"""A thread like those that libraries start before the player blocks signals."""


def test_a_signal_delivered_to_another_thread_stops_the_player_cleanly():
    found = subprocess.run(
        [sys.executable, '-c', OLDER_THREAD], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, '0\n', '')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(bag_path, play, number):
    process = play(bag_path, '--wait')
    assert process.stdout.readline().startswith('bag_player: waiting')
    process.send_signal(number)
    status, out, err = _finish(process)
    assert (status, err) == (0, '')
    assert ' 0 messages published' in out


def test_the_clock_follows_the_time_of_the_bag(bag_path, listen, play):
    listener = listen({'/clock': CLOCK, '/header': HEADER})
    process = play(bag_path, '--topics', '/header', '--wait', '--clock', '100')
    status, _, err = _finish(process)
    assert (status, err) == (0, '')
    listener.wait_for('/header', 6)
    listener.wait_for('/clock', 7)  # more than one per message
    times_ns = []
    for cdr in listener.received['/clock']:
        clock = TYPES.deserialize_cdr(cdr, CLOCK).clock
        times_ns.append(clock.sec * 10**9 + clock.nanosec)
    assert times_ns == sorted(times_ns)
    assert times_ns[0] >= START_TIME_NS
    assert times_ns[-1] <= START_TIME_NS + 5 * PERIOD_NS


def test_a_truncated_bag_is_played_up_to_the_damage(bag_path, listen, play):
    file = bag_path / 'bag.mcap'
    file.write_bytes(file.read_bytes()[:-100])
    listener = listen({'/camera/image_raw': IMAGE})
    process = play(bag_path, '--topics', '/camera/image_raw', '--rate', 4, '--wait')
    status, out, err = _finish(process)
    assert status == 1
    assert 'mcap recover' in err
    assert 'Traceback' not in err
    assert ' 6 messages published' in out
    assert listener.wait_for('/camera/image_raw', 6) == IMAGES


@pytest.mark.parametrize('waited', [True, False])
def test_a_first_message_is_acknowledged_before_the_next(bag_path, waited):
    """Otherwise it may be gone from the history when a subscriber discovers the publisher late."""
    done = []
    publisher = SimpleNamespace(
        topic_name='/header',
        get_subscription_count=lambda: 1,
        publish=lambda cdr: done.append('published'),
        wait_for_all_acked=lambda patience: done.append('acknowledged') or True,
    )
    node = SimpleNamespace(create_publisher=lambda *_: publisher)
    stop = threading.Event()
    with Bag(bag_path) as bag:
        player = Player(node, bag, ['/header'], rate=1000.0)
        if waited:
            assert player.wait_for_subscribers(stop) == []
        player.play(stop)
    first = ['published', 'acknowledged'] if waited else ['published']
    assert done == first + ['published'] * 5


@pytest.mark.usefixtures('signals_of_pytest')
@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--topics', '/left'], '/camera/image_raw (sensor_msgs/msg/Image)'),
        (
            ['--topics', '/header'],
            "type 'std_msgs/msg/Header' of topic '/header' is not installed",
        ),
        (['--wait', '0.01'], 'no subscriber of /camera/image_raw'),
        (['--ros-args', '-r', 'no remapping'], 'no remapping'),
    ],
)
def test_errors_name_the_invalid_value(bag_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setitem(sys.modules, 'std_msgs.msg', None)
    assert main([str(bag_path), *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--rate', '--clock', '--wait'])
@pytest.mark.parametrize('value', ['0', '-1', 'nan', 'inf', 'fast'])
def test_errors_of_options_name_the_invalid_value(capsys, option, value):
    with pytest.raises(SystemExit, match='2'):
        main(['bag', f'{option}={value}'])
    assert repr(value) in capsys.readouterr().err


@pytest.mark.usefixtures('signals_of_pytest')
def test_error_for_a_bag_without_images_lists_its_topics(tmp_path, monkeypatch, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write('/header', HEADER, header(1), 1)
    assert main([str(tmp_path / 'bag')]) == 1
    err = capsys.readouterr().err
    assert '/header (std_msgs/msg/Header)' in err
    assert '--topics' in err
