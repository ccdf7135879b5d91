# SPDX-License-Identifier: Apache-2.0
"""Whether an error is of the machine that runs a network, rather than of the picture."""


def is_of_machine(error: Exception) -> bool:
    """
    Tell what another try, or another device, may mend.

    Torch raises RuntimeError where a device fails or has no memory left (its OutOfMemoryError and
    AcceleratorError are such), and OpenVINO for all that goes wrong; ONNX Runtime has classes of
    its own. A picture that can't be taken is a ValueError, logits that are no numbers an
    ArithmeticError: these come again wherever it is tried.

    :param error: raised by a Segmenter.
    :return: whether it is of the machine.
    """
    ours = isinstance(error, (RuntimeError, MemoryError))
    return ours or type(error).__module__.startswith('onnxruntime')
