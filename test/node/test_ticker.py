# SPDX-License-Identifier: Apache-2.0
"""A ticker calls periodically, survives exceptions of a call, and stops on request."""

import threading

from surgseg_ros.node.lifecycle import Ticker

NEVER_S = 3600.0


def test_calls_at_once_periodically_and_on_request():
    called = threading.Semaphore(0)
    ticker = Ticker('test', NEVER_S, called.release, lambda error: None)
    ticker.start()
    assert called.acquire(timeout=60)
    ticker.soon()
    assert called.acquire(timeout=60)
    ticker.stop()
    assert not ticker.is_alive()
    assert not called.acquire(blocking=False)


def test_calls_again_after_a_period():
    called = threading.Semaphore(0)
    ticker = Ticker('test', 0.001, called.release, lambda error: None)
    ticker.start()
    assert all(called.acquire(timeout=60) for _ in range(5))
    ticker.stop()


def test_continues_after_an_exception_of_a_call():
    warnings, complained = [], threading.Semaphore(0)

    def complain(error):
        warnings.append(str(error))
        complained.release()

    def fail():
        raise ValueError('this time')

    ticker = Ticker('test', NEVER_S, fail, complain)
    ticker.start()
    assert complained.acquire(timeout=60)
    ticker.soon()
    assert complained.acquire(timeout=60)
    ticker.stop()
    assert set(warnings) == {'this time'}


def test_calls_nothing_if_stopped_before_it_is_started():
    called = []
    ticker = Ticker('test', NEVER_S, lambda: called.append(1), lambda error: None)
    ticker.stop()
    ticker.start()
    ticker.join(60)
    assert not ticker.is_alive()
    assert not called
