# SPDX-License-Identifier: Apache-2.0
"""What all tests share: DDS stays on this machine, in a domain of the test run's own."""

import os

os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
