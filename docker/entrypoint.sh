#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command in the workspace's environment.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /workspace/install/setup.bash
exec "$@"
