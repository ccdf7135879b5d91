# SPDX-License-Identifier: Apache-2.0
"""Networks in the form of other runtimes, held against the original."""
