# SPDX-License-Identifier: Apache-2.0
"""The Python API: the names in `surgseg_ros`, and what importing them loads."""

import doctest
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

import surgseg_ros
from surgseg_ros.core import segmenter as segmenter_module

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def segmenter() -> 'surgseg_ros.Segmenter':
    return surgseg_ros.Segmenter.load(ROOT / 'models' / 'default', device='cpu')


def run(script: str) -> str:
    command = [sys.executable, '-c', script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_library() -> None:
    loaded = run('import sys, surgseg_ros; dir(surgseg_ros); print(*sys.modules)').split()
    assert 'surgseg_ros' in loaded
    top_level = {name.partition('.')[0] for name in loaded}
    assert not {'torch', 'rclpy', 'numpy', 'cv2', 'yaml', 'rosbags'} & top_level
    assert not [name for name in loaded if name.startswith('surgseg_ros.')]


def test_the_segmenter_needs_no_ros() -> None:
    """An image is segmented while the modules of ROS are blocked."""
    script = (
        'import sys\n'
        'blocked = "rclpy", "rcl_interfaces", "sensor_msgs", "ament_index_python", "launch"\n'
        'sys.modules.update(dict.fromkeys(blocked))\n'
        'import numpy\n'
        'from surgseg_ros import Segmenter\n'
        'rgb = numpy.zeros((90, 160, 3), numpy.uint8)\n'
        'print(Segmenter.load("models/default", "cpu").segment(rgb).mask.shape)'
    )
    assert run(script).strip() == '(90, 160)'


@pytest.mark.parametrize('name', surgseg_ros.__all__)
def test_every_public_name_exists_and_is_listed(name: str) -> None:
    assert getattr(surgseg_ros, name) is not None
    assert name in dir(surgseg_ros)


def test_editors_find_the_same_names_as_lazy_imports() -> None:
    """The names under TYPE_CHECKING are those that `__getattr__` finds."""
    seen = ModuleType('seen')
    source = Path(surgseg_ros.__file__).read_text()
    block = source.split('if TYPE_CHECKING:\n')[1].split('\n    __version__')[0]
    exec('\n'.join(line.strip() for line in block.splitlines()), seen.__dict__)
    for name in set(surgseg_ros.__all__) - {'__version__'}:
        assert getattr(seen, name) is getattr(surgseg_ros, name), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'surgseg_ros' has no attribute 'Segmentor'"):
        _ = surgseg_ros.Segmentor


def test_the_version_is_that_of_the_package() -> None:
    assert surgseg_ros.__version__ == importlib.metadata.version('surgseg_ros')


def test_the_example_in_the_docstring_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(segmenter_module.Segmenter, 'Segmenter')
    assert len(example.examples) > 5
    failures: list[str] = []
    doctest.DocTestRunner().run(example, out=failures.append)
    assert not failures, ''.join(failures)


def test_a_result_has_what_was_requested(segmenter: 'surgseg_ros.Segmenter') -> None:
    rgb = np.full((120, 160, 3), (150, 60, 50), np.uint8)
    plain = segmenter.segment(rgb)
    assert (plain.mask.shape, plain.mask.dtype) == ((120, 160), np.uint8)
    assert plain.confidence is None
    assert plain.instruments is None

    asked = segmenter.segment(rgb, confidence=True, instruments=True)
    assert np.array_equal(asked.mask, plain.mask)
    assert asked.confidence is not None
    assert (asked.confidence.shape, asked.confidence.dtype) == ((120, 160), np.uint8)
    assert isinstance(asked.instruments, tuple)


def test_a_bgr_view_is_segmented_like_its_rgb_copy(segmenter: 'surgseg_ros.Segmenter') -> None:
    bgr = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = segmenter.segment(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).mask
    assert np.array_equal(segmenter.segment(bgr[..., ::-1]).mask, expected)


def test_outside_the_roi_is_no_decision(segmenter: 'surgseg_ros.Segmenter') -> None:
    roi = surgseg_ros.Roi(20, 10, 100, 60)
    mask = segmenter.segment(np.zeros((90, 160, 3), np.uint8), roi=roi).mask
    inside = np.zeros((90, 160), bool)
    inside[10:70, 20:120] = True
    assert np.array_equal(mask != surgseg_ros.NO_DECISION, inside)


@pytest.mark.parametrize(
    ('image', 'remedy'),
    [
        (np.zeros((4, 4), np.uint8), r'image is \(4, 4\) uint8.*COLOR_GRAY2RGB'),
        (np.zeros((3, 4, 5), np.uint8), r'channels last, image.transpose\(1, 2, 0\)'),
        (np.zeros((4, 4, 4), np.uint8), r'leave alpha out'),
        (np.zeros((4, 4, 3), np.float32), r'float32.*scale it to 0..255'),
        (np.zeros((4, 4, 3), np.uint16), r'image is \(4, 4, 3\) uint16, expected.*scale it'),
        (np.zeros((4, 4, 3), bool), r'bool.*scale it to 0..255'),
        (np.zeros((4, 4, 1), np.uint8), r'COLOR_GRAY2RGB'),
        (np.zeros((1, 4, 4, 3), np.uint8), r'image\[0\], or all to segment_all'),
        (np.zeros((4, 4, 2), np.uint8), r'expected \(H, W, 3\) uint8 RGB$'),
        (np.zeros((0, 4, 3), np.uint8), r'it is empty'),
    ],
)
def test_error_for_another_shape_or_dtype_names_the_remedy(
    segmenter: 'surgseg_ros.Segmenter', image: np.ndarray, remedy: str
) -> None:
    with pytest.raises(ValueError, match=remedy):
        segmenter.segment(image)


PilImage = type('Image', (), {'__module__': 'PIL.Image'})


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (None, r'image is None, expected a NumPy array.*cv2.imread returns None'),
        ('frame.png', r'of type str, .*cv2.imread\(path\)'),
        (Path('frame.png'), r'cv2.imread\(path\)'),
        (torch.zeros(4, 4, 3), r'of type Tensor, .*image.cpu\(\).numpy\(\)'),
        (PilImage(), r"of type Image, .*np.asarray\(image.convert\('RGB'\)\)"),
        ([[[0, 0, 0]]], r'of type list, .*np.array\(image, np.uint8\)'),
        (7, r'of type int, expected a NumPy array, \(H, W, 3\) uint8 RGB$'),
    ],
)
def test_error_for_an_object_that_is_not_an_array_names_the_remedy(
    segmenter: 'surgseg_ros.Segmenter', image: object, expected: str
) -> None:
    with pytest.raises(TypeError, match=expected):
        segmenter.segment(image)


RGB = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ('images', 'rois', 'expected'),
    [
        ([], None, 'images is empty'),
        (RGB, None, r'one array of shape \(8, 9, 3\), .*segment_all\(\[image\]\)'),
        ([RGB, RGB], [None], 'images has 2 and rois 1 elements: give a Roi'),
        ([RGB], [], 'images has 1 and rois 0 elements'),
    ],
)
def test_rejects_other_than_a_list_of_images_with_a_roi_each(
    segmenter: 'surgseg_ros.Segmenter', images: object, rois: object, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        segmenter.segment_all(images, rois)


def test_an_array_of_images_is_a_list_of_images(segmenter: 'surgseg_ros.Segmenter') -> None:
    assert len(segmenter.segment_all(np.stack([RGB, RGB]))) == 2


def test_error_for_a_roi_of_another_type_shows_how_to_create_one(
    segmenter: 'surgseg_ros.Segmenter',
) -> None:
    with pytest.raises(TypeError, match=r'roi is \(0, 0, 9, 9\), expected a Roi: Roi\(x_px, '):
        segmenter.segment(RGB, roi=(0, 0, 9, 9))


@pytest.mark.parametrize('size', [(1080,), (1080, 1920, 3), (0, 8)])
def test_rejects_a_size_that_is_not_of_an_image(
    segmenter: 'surgseg_ros.Segmenter', size: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r'size is .*, expected \(height, width\)'):
        segmenter.warm_up(size)


@pytest.mark.parametrize('runtime', ['auto', 'torch', 'openvino'])
def test_error_for_an_unknown_precision_names_the_known_ones(runtime: str) -> None:
    expected = "precision is 'fp16', expected one of auto, f32, bf16, f16, int8"
    with pytest.raises(ValueError, match=expected):
        surgseg_ros.Segmenter.load(runtime=runtime, precision='fp16')


def test_error_names_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(surgseg_ros.ModelError, match=str(tmp_path)):
        surgseg_ros.Segmenter.load(tmp_path)


def test_a_former_name_still_works_and_names_the_present_one() -> None:
    with pytest.warns(DeprecationWarning, match='least_distances is now min_distances'):
        former = surgseg_ros.least_distances
    assert former is surgseg_ros.min_distances
    assert 'least_distances' not in dir(surgseg_ros)


def test_a_former_attribute_of_a_keypoint_still_works() -> None:
    point = surgseg_ros.Keypoint(surgseg_ros.KeypointKind.TIP, 3.0, 4.0)
    with pytest.warns(DeprecationWarning, match='Keypoint.place is now xy_px'):
        former = getattr(point, 'place')  # noqa: B009 - no code uses it as a name
    assert former.tolist() == point.xy_px.tolist() == [3.0, 4.0]
