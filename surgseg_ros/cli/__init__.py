# SPDX-License-Identifier: Apache-2.0
"""The verbs: options, printed output and exit status; other packages do their work."""
