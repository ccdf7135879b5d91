# SPDX-License-Identifier: Apache-2.0
"""The verbs: what each of them takes, prints and ends with; any room does their work."""
