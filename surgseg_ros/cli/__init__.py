# SPDX-License-Identifier: Apache-2.0
"""The verbs: what each of them takes, prints and ends with; the other packages do their work."""
