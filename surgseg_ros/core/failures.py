# SPDX-License-Identifier: Apache-2.0
"""What a network's error tells: whether it is of the machine, and what to say; without torch."""


def is_of_machine(error: Exception) -> bool:
    """
    Tell what another try, or another device, may fix.

    Torch raises RuntimeError where a device fails or has no memory left (its OutOfMemoryError and
    AcceleratorError are such), and OpenVINO for all that goes wrong; ONNX Runtime has classes of
    its own. An image that cannot be taken is a ValueError, logits that are no numbers an
    ArithmeticError: these come again wherever it is tried.

    :param error: raised by a Segmenter.
    :return: whether it is of the machine.
    """
    ours = isinstance(error, (RuntimeError, MemoryError))
    return ours or type(error).__module__.startswith('onnxruntime')


def describe(error: Exception) -> str:
    """
    Tell an error to those who run the machine.

    :param error: raised by a Segmenter.
    :return: its class and text, without the advice for those who write kernels that torch adds.
    """
    kind, text = type(error).__name__, str(error)
    if text.startswith('CUDA error'):
        text = text.partition('\n')[0]
    return f'{kind}: {text}'
