# SPDX-License-Identifier: Apache-2.0
"""Metrics, the evaluator and its reports."""
