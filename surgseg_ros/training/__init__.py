# SPDX-License-Identifier: Apache-2.0
"""Data sets, synthetic scenes and the training entry point."""
