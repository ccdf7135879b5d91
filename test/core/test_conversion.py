# SPDX-License-Identifier: Apache-2.0
"""A plain model folder on a CPU: converted for OpenVINO once, and torch where that cannot be."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surgseg_ros.core import runtimes
from surgseg_ros.core.cache import Entry
from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_spec
from surgseg_ros.core.runtimes import conversion, exported
from surgseg_ros.core.runtimes.conversion import Conversion, ConversionError
from surgseg_ros.core.segmenter import Segmenter

pytest.importorskip('openvino', reason='pip install openvino')

IMAGES = torch.randint(
    0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)

REFUSES = "open(sys.argv[2] + '/verdict.json', 'w').write('{\"refusal\": \"it is too odd\"}')"
DIES = "print('exporting', flush=True); print('Killed', file=sys.stderr); sys.exit(7)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of conversions in a cache of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache/surgseg_ros/openvino'


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give a function that lets another program do the work of the process."""
    return lambda program: monkeypatch.setattr(conversion, '_PROGRAM', f'import sys; {program}')


def logits(segmenter: Segmenter) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([segmenter.runtime(image[None]).clone() for image in IMAGES])


def test_a_plain_folder_is_converted_once_and_then_read(
    tiny_model: Path,
    folder: Path,
    converter: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    first = Segmenter.load(tiny_model, 'cpu')
    assert first.runtime.description == (
        'openvino f32 on CPU, converted from the weights (auto: no CUDA)'
    )
    assert first.runtime.precision == 'f32'
    assert first.max_batch_size == 1
    expected = logits(Segmenter.load(tiny_model, 'cpu', 'torch'))
    torch.testing.assert_close(logits(first), expected, rtol=1e-3, atol=1e-4)
    texts = caplog.text
    for step in ('converting the model for OpenVINO', 'exporting', 'comparing', 'converted in'):
        assert step in texts

    converter('sys.exit(3)')
    caplog.clear()
    second = Segmenter.load(tiny_model, 'cpu', 'openvino')
    assert second.runtime.description == 'openvino f32 on CPU, converted from the weights'
    assert torch.equal(logits(second), logits(first))
    assert not caplog.records

    (entry,) = folder.glob('*.entry')
    entry.write_bytes(entry.read_bytes()[:-1])
    third = Segmenter.load(tiny_model, 'cpu')
    assert third.runtime.description.startswith('torch float32 on CPU (auto: the conversion for')
    assert 'it is damaged' in caplog.text
    assert torch.equal(logits(third), expected)


def test_a_network_that_disagrees_runs_on_torch_and_is_not_converted_again(
    tiny_model: Path,
    folder: Path,
    converter: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)  # other libraries may have raised the root level
    converter(REFUSES)
    for _ in range(2):
        runtime = Segmenter.load(tiny_model, 'cpu').runtime
        assert runtime.description == 'torch float32 on CPU (auto: it is too odd)'
        converter('sys.exit(3)')
    assert 'it is too odd; torch is used instead' in caplog.text
    with pytest.raises(ConversionError, match="odd: set runtime to 'auto' or 'to") as raised:
        Segmenter.load(tiny_model, 'cpu', 'openvino')
    assert str(raised.value).startswith(f'{tiny_model}: ')
    assert len(list(folder.glob('*.entry'))) == 1


def test_a_crashed_conversion_falls_back_to_torch_and_caches_nothing(
    tiny_model: Path,
    folder: Path,
    converter: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    converter(DIES)
    description = Segmenter.load(tiny_model, 'cpu').runtime.description
    assert description.endswith(
        '(auto: the conversion for OpenVINO failed with exit status 7 (Killed))'
    )
    assert 'exporting' in caplog.messages
    assert not list(folder.glob('*.entry'))


def test_a_conversion_that_hangs_is_reported_and_ended(
    tiny_model: Path,
    folder: Path,
    converter: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(conversion, 'LONGEST_SILENCE_S', 0.01)
    monkeypatch.setattr(conversion, '_LONGEST_S', 0.1)
    converter('sys.stdin.read()')
    description = Segmenter.load(tiny_model, 'cpu').runtime.description
    assert 'did not end within 0.1 s' in description
    assert 'importing PyTorch (0 s)' in caplog.messages


def test_a_cache_that_cannot_be_written_is_reported_and_does_no_harm(
    tiny_model: Path,
    folder: Path,
    converter: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)  # other libraries may have raised the root level
    folder.parents[1].touch()
    converter(REFUSES)
    assert 'it is too odd' in Segmenter.load(tiny_model, 'cpu').runtime.description
    assert 'cannot be kept' in caplog.text
    assert str(folder.parents[1]) in caplog.text
    assert 'let XDG_CACHE_HOME name a folder' in caplog.text


def test_the_process_gets_search_path_and_threads_of_this_one(
    tiny_model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    written = tmp_path / 'written'
    monkeypatch.setattr(
        conversion,
        '_PROGRAM',
        f'import sys; open({str(written)!r}, "w").write(repr(sys.argv)); {REFUSES}',
    )
    Segmenter.load(tiny_model, 'cpu')
    arguments = written.read_text()
    assert arguments.startswith(f"['-c', {str(tiny_model)!r}, ")
    assert arguments.endswith(f", '3', 'f32', {str(sys.path)[1:]}")


def test_rejects_changed_weights_even_if_a_conversion_is_cached(
    tiny_model: Path, folder: Path, converter: Callable[[str], None]
) -> None:
    converter(REFUSES)
    Segmenter.load(tiny_model, 'cpu')
    (tiny_model / 'weights.safetensors').write_bytes(b'others')
    with pytest.raises(ModelError, match='SHA-256 is'):
        Segmenter.load(tiny_model, 'cpu')


def test_the_key_depends_on_network_code_versions_processor_and_instructions(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(spec: ModelSpec = tiny_spec) -> str:
        return conversion._key(spec, ('f32',))

    keys = [key(), key(replace(tiny_spec, input_size=(96, 96))), conversion._key(tiny_spec, ())]
    assert key(replace(tiny_spec, name='other', scores={'mIoU': 1})) == keys[0]
    for name, value in (('_version', lambda package: '1.2.3'), ('_FORMAT', 1_000)):
        monkeypatch.setattr(conversion, name, value)
        keys.append(key())
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', 'AVX2')
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_the_key_depends_on_each_file_of_the_package_that_makes_the_result(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / 'surgseg_ros'
    shutil.copytree(Path(conversion.__file__).parents[2], package)
    monkeypatch.setattr(conversion, '__file__', str(package / 'core/runtimes/conversion.py'))
    keys = [conversion._key(tiny_spec, ('f32',))]
    for changed in (
        'core/preprocessing.py',
        'core/runtimes/pytorch.py',
        'exporting/conversion.py',
        'synthetic/scene.py',
    ):
        with (package / changed).open('a') as file:
            file.write('# changed')
        keys.append(conversion._key(tiny_spec, ('f32',)))
    assert len(set(keys)) == len(keys)


def test_the_key_depends_on_the_threads_only_if_there_is_a_precision_to_choose(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[tuple[str, ...], set[str]] = {('f32',): set(), ('f32', 'bf16'): set()}
    for threads in (1, 2):
        monkeypatch.setattr(torch, 'get_num_threads', lambda threads=threads: threads)
        for precisions, found in keys.items():
            found.add(conversion._key(tiny_spec, precisions))
    assert [len(found) for found in keys.values()] == [1, 2]


def test_float32_alone_takes_any_conversion_and_the_fastest_precision_its_own(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def convert(folder: Path, precisions: Sequence[str]) -> Entry:
        compared.append(','.join(precisions))
        return Entry({'quickest': precisions[-1], 'network_ms': {}, 'agreement': {}}, (b'a', b'b'))

    monkeypatch.setattr(conversion, '_convert', convert)
    monkeypatch.setattr(conversion, 'available_precisions', lambda: ('f32', 'bf16'))
    spec = read_spec(tiny_model)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    assert conversion.convert_once(tiny_model, spec, quickest=True).quickest == 'bf16'
    assert conversion.convert_once(tiny_model, spec).files == (b'a', b'b')
    assert compared == ['f32,bf16']
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    conversion.convert_once(tiny_model, spec)
    assert compared == ['f32,bf16', 'f32']
    conversion.convert_once(tiny_model, spec, quickest=True)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    conversion.convert_once(tiny_model, spec)
    assert compared == ['f32,bf16', 'f32', 'f32,bf16']


@pytest.mark.parametrize(
    ('asked', 'quickest', 'expected'),
    [('auto', False, 'f32'), ('auto', True, 'bf16'), ('f32', True, 'f32'), ('f16', True, 'f16')],
)
def test_uses_the_fastest_precision_if_requested(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    quickest: bool,
    expected: str,
) -> None:
    compiled: list[tuple[bytes, str]] = []

    def init(self: object, spec: ModelSpec, graph: bytes, _: bytes, precision: str, *more: str):
        compiled.append((graph, precision))
        self.description = 'a test'  # type: ignore[attr-defined]

    monkeypatch.setattr(exported, 'available_precisions', lambda: ('f32', 'bf16', 'f16'))
    monkeypatch.setattr(
        exported, 'convert_once', lambda *_, **__: Conversion((b'a', b'b'), 'bf16')
    )
    monkeypatch.setattr(exported.OpenVinoRuntime, '__init__', init)
    options = runtimes.RuntimeOptions('cpu', asked, quickest=quickest)
    runtimes.load_runtime(tiny_model, ModelSpec(name='any'), 'auto', options)
    assert compiled == [(b'a', expected)]


@pytest.mark.parametrize('runtime', ['auto', 'openvino'])
def test_rejects_a_precision_that_would_be_emulated(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr(exported, 'available_precisions', lambda: ('f32', 'f16'))
    with pytest.raises(ValueError, match=r"'bf16', for which this .* 'auto', or to f32 or f16"):
        Segmenter.load(tiny_model, 'cpu', runtime, precision='bf16')
    with pytest.raises(ModelError, match=r'surgseg_ros export .* --precision int8'):
        Segmenter.load(tiny_model, 'cpu', runtime, precision='int8')


def test_only_what_both_openvino_and_onednn_report_is_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ['FP32', 'BF16', 'INT8']

    monkeypatch.setattr(conversion, 'openvino_core', Core)
    monkeypatch.setattr(conversion, 'has_instructions', lambda name: True)
    assert conversion.available_precisions() == ('f32', 'bf16')
    monkeypatch.setattr(conversion, 'has_instructions', lambda name: False)
    assert conversion.available_precisions() == ('f32',)


def test_falls_back_to_torch_if_openvino_cannot_be_imported(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # other libraries may have raised the root level
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: True)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    conversion._core.cache_clear()
    runtime = Segmenter.load(tiny_model, 'cpu').runtime
    assert runtime.description.startswith(
        'torch float32 on CPU (auto: openvino cannot be imported'
    )
    assert 'torch is used instead' in caplog.text
    with pytest.raises(ValueError, match=r'openvino cannot be imported .*pip install openvino'):
        Segmenter.load(tiny_model, 'cpu', 'openvino')


DESTROYED_IN_A_THREAD = """
import gc, os, signal, sys, threading
from surgseg_ros.core.segmenter import Segmenter
segmenters = [Segmenter.load(sys.argv[1], 'cpu', 'openvino')]
thread = threading.Thread(target=lambda: (segmenters.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: print('handled', flush=True))
os.kill(os.getpid(), signal.SIGCHLD)
"""


def test_a_signal_is_handled_after_a_runtime_was_destroyed_in_a_thread(tiny_model: Path) -> None:
    arguments = [sys.executable, '-c', DESTROYED_IN_A_THREAD, str(tiny_model)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, 'handled\n'), done.stderr
