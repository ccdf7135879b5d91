# SPDX-License-Identifier: Apache-2.0
"""Reads the intact parts of damaged bag files."""
