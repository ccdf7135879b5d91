# SPDX-License-Identifier: Apache-2.0
"""Reports for people: HTML from templates (`pages`), charts as SVG (`charts`, `timeline`)."""

from typing import Final

FILE_NAME: Final = 'report.html'
"""Of a report in its folder; known without importing Jinja2 or Matplotlib."""
