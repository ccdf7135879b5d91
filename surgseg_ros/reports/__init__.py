# SPDX-License-Identifier: Apache-2.0
"""Reports: HTML from templates (`pages`), charts as SVG (`charts`, `timeline`)."""

from typing import Final

FILE_NAME: Final = 'report.html'
"""File name of a report; defined here to be available without Jinja2 or Matplotlib."""
