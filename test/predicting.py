# SPDX-License-Identifier: Apache-2.0
"""The verb `predict`, and images for it."""

import cv2
import numpy as np
from verbs import verb

main = verb('predict')


def predict(model, source, output, *more):
    words = ['--model', model, '--input', source, '--output', output, '--device', 'cpu', *more]
    return main([str(word) for word in words])


def write_images(folder, *names):
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        image = np.random.default_rng(index).integers(0, 256, (50, 70, 3), np.uint8)
        cv2.imwrite(str(folder / name), image)
