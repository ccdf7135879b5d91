# SPDX-License-Identifier: Apache-2.0
"""Export of networks for other runtimes, compared with the original."""
