# SPDX-License-Identifier: Apache-2.0
"""Reports: HTML from templates, and the charts in it (`pages`, `timeline`)."""

from typing import Final

FILE_NAME: Final = 'report.html'
"""File name of a report."""

SHEET_IMAGE_PX: Final = 400
"""Width of an image on a data sheet."""

# Both are defined here to be available without Jinja2 or Matplotlib.
