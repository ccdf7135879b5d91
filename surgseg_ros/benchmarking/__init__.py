# SPDX-License-Identifier: Apache-2.0
"""What a frame costs, stage by stage in one process, and how measurements are shown."""
