# SPDX-License-Identifier: Apache-2.0
"""Data sets and the training entry point."""
