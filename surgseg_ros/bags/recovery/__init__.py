# SPDX-License-Identifier: Apache-2.0
"""Reads the intact part of damaged bags."""
