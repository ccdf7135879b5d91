#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Finds a Python that will do and lets it set up .venv; a Python too old could not even read set_up.py.
set -eu
here=$(dirname "$0")

# A sourced ROS 2 works with its own Python alone; the wheels from PyPI are there for 3.10 to 3.13.
if [ -n "${AMENT_PREFIX_PATH:-}" ]; then
    candidates=python3
    range='3.10 or later'
    suitable='import sys; sys.exit(sys.version_info < (3, 10))'
else
    candidates='python3 python3.13 python3.12 python3.11 python3.10'
    range='3.10 to 3.13'
    suitable='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
fi

for python in ${PYTHON:-$candidates}; do
    if "$python" -c "$suitable" >/dev/null 2>&1; then
        exec "$python" "$here/set_up.py"
    fi
done
first=${PYTHON:-python3}
found=$("$first" --version 2>&1) || found='not there'
echo "make setup: Python $range is needed, and $first is ${found#Python }:" \
    "install one (python3.12, python3.12-venv, python3.12-dev), then PYTHON=python3.12 make setup" >&2
exit 1
