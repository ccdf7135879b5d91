# SPDX-License-Identifier: Apache-2.0
"""What can be read of bags that are damaged or cut off."""
