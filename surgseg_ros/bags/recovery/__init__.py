# SPDX-License-Identifier: Apache-2.0
"""Reads what is intact in damaged files of bags."""
