# SPDX-License-Identifier: Apache-2.0
"""The default model is found in a checkout and where the package is installed."""

from pathlib import Path

import pytest

from surgseg_ros.core.model_folder import DEFAULT_MODEL, ModelError, find_model, read_spec

FOLDERS = {
    'checkout': ('surgseg_ros', 'models/default'),
    'colcon': ('lib/python3.12/site-packages/surgseg_ros', 'share/surgseg_ros/models/default'),
    'debian': (
        'local/lib/python3.12/dist-packages/surgseg_ros',
        'local/share/surgseg_ros/models/default',
    ),
    'pip --target': ('surgseg_ros', 'share/surgseg_ros/models/default'),
}


def test_default_model_was_trained_only_on_synthetic_scenes():
    assert read_spec(find_model(DEFAULT_MODEL)).intended_use == 'synthetic'


@pytest.mark.parametrize(('package', 'folder'), FOLDERS.values(), ids=FOLDERS)
def test_default_model_is_found_beside_the_package_or_in_share(tmp_path, package, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / 'model.json').touch()
    assert find_model('default', tmp_path / package) == tmp_path / folder


def test_error_for_a_missing_default_model_names_places_and_remedy(tmp_path):
    (tmp_path / 'models/default').mkdir(parents=True)  # without its files
    with pytest.raises(ModelError, match='install the package again, or name') as raised:
        find_model('default', tmp_path / 'surgseg_ros')
    assert str(tmp_path / 'models/default') in str(raised.value)
    assert str(tmp_path / 'share/surgseg_ros/models/default') in str(raised.value)


@pytest.mark.parametrize('folder', ['./default', 'mine', '/models/mine', Path('models/default')])
def test_any_other_text_is_the_path_of_a_folder(folder):
    assert find_model(folder) == Path(folder)
