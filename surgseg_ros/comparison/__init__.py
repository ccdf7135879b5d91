# SPDX-License-Identifier: Apache-2.0
"""Two results of evaluate_bag held against each other, with confidence intervals."""
