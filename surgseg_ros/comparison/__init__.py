# SPDX-License-Identifier: Apache-2.0
"""Comparison of two results of evaluate_bag, with confidence intervals."""
