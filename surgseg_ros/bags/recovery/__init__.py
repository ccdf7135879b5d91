# SPDX-License-Identifier: Apache-2.0
"""Readers of bags that are damaged or truncated."""
