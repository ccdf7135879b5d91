# SPDX-License-Identifier: Apache-2.0
"""Parses an HTML page for tests: tags, text, links, images, and unclosed tags."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np


class Page(HTMLParser):
    """The contents of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.styles, self.open, self.text = [], [], [], [], ''
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]
        self.styles += [value for name, value in attrs if value and 'url(' in value]
        if tag not in ('meta', 'img', 'br'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def assert_is_self_contained(self):
        """Check that all references are embedded images or parts of a chart on the page."""
        assert not {'script', 'link', 'iframe'} & set(self.tags)
        assert self.links
        assert all(re.match('data:image/|#', link) for link in self.links)
        assert all(re.search(r'url\(#', value) for value in self.styles)

    def images(self):
        """Decode the JPEG images: (H, W, 3) uint8 RGB."""
        for link in self.links:
            if link.startswith('data:image/jpeg'):
                data = np.frombuffer(base64.b64decode(link.split(',')[1]), np.uint8)
                yield cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
