# SPDX-License-Identifier: Apache-2.0
"""Begins ROS with the arguments of a command, and says which of them it does not understand."""

import ast
from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions


class RosArgumentError(ValueError):
    """Arguments after `--ros-args` that ROS does not take; the message names them."""


def begin_ros(arguments: Sequence[str]) -> None:
    """
    Initialize rclpy, without handlers of signals.

    :param arguments: of the command; those of ROS follow `--ros-args`.
    :raises RosArgumentError: if ROS does not understand one.
    """
    try:
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        # The classes are those of rclpy's native part, which every distribution keeps elsewhere.
        kind = type(error).__name__
        if kind == 'UnknownROSArgsError':
            what = ' '.join(ast.literal_eval(str(error)))
            raise RosArgumentError(
                f'ROS does not know {what} after --ros-args: check it, or end the arguments of '
                'ROS by --'
            ) from error
        if kind == 'RCLInvalidROSArgsError' or 'parse' in str(error):
            raise RosArgumentError(
                f'ROS does not understand the arguments after --ros-args ({error}): write '
                '-r FROM:=TO, -p NAME:=VALUE or --params-file FILE'
            ) from error
        raise
