# SPDX-License-Identifier: Apache-2.0
"""What docker/ and .devcontainer/ refer to exists; the image itself is not built."""

import ast
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from surgseg_ros.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]
WORKSPACE = '/workspace'
INSIDE = f'{WORKSPACE}/src/surgseg_ros'
"""Path of this repository in the image."""


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile: each instruction and its arguments, without comments."""
    text = (ROOT / 'docker/Dockerfile').read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith('#')]
    joined = re.sub(r'\\\n', ' ', '\n'.join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (x.partition(' ') for x in joined.split('\n'))
        if word
    ]


def stages() -> dict[str, str]:
    """Map each stage of the Dockerfile to its base."""
    named = [rest.split(' AS ') for word, rest in instructions() if word == 'FROM']
    return {name: base for base, name in named}


def commands() -> list[str]:
    """List the shell commands of all RUN instructions, and those in the documentation."""
    reported = re.findall(
        r'^(?:#   |    )(docker (?:.*\\\n)*.*)',
        (ROOT / 'docker/Dockerfile').read_text() + (ROOT / 'docs/containers.md').read_text(),
        re.MULTILINE,
    )
    run = [part for word, rest in instructions() if word == 'RUN' for part in rest.split('&&')]
    return [re.sub(r'\\\n#?', ' ', command).strip() for command in (*reported, *run)]


def devcontainer() -> dict[str, object]:
    return json.loads((ROOT / '.devcontainer/devcontainer.json').read_text())


def package() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def make_targets() -> set[str]:
    text = (ROOT / 'Makefile').read_text()
    return set(re.search(r'^\.PHONY: (.*)$', text, re.MULTILINE)[1].split())


def test_the_stages_are_built_on_ros_and_on_each_other() -> None:
    assert stages() == {'dependencies': 'ros:jazzy-perception', 'robot': 'dependencies'}


def test_every_copied_file_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / '.dockerignore').read_text().split('\n')
    copied = [shlex.split(rest) for word, rest in instructions() if word == 'COPY']
    sources = [x for words in copied for x in words[:-1] if not x.startswith('--')]
    assert {'package.xml', '.', 'docker/entrypoint.sh'} == set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert source not in ignored


def test_files_ignored_by_git_are_not_copied_into_the_image() -> None:
    of_git, of_docker = (
        {line.strip('/') for line in (ROOT / name).read_text().splitlines() if line[:1] not in '#'}
        for name in ('.gitignore', '.dockerignore')
    )
    everywhere = {'__pycache__', '*.egg-info'}  # which git ignores in every folder
    assert of_docker == {'.git'} | {f'**/{x}' if x in everywhere else x for x in of_git}


def test_the_entry_point_is_a_program_that_sources_the_workspace() -> None:
    (copied,) = [
        rest.split() for word, rest in instructions() if word == 'COPY' and 'entry' in rest
    ]
    (named,) = [json.loads(rest) for word, rest in instructions() if word == 'ENTRYPOINT']
    assert named == copied[1:]
    script = ROOT / copied[0]
    assert os.access(script, os.X_OK)
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    assert f'source {WORKSPACE}/install/setup.bash' in script.read_text()
    assert script.read_text().rstrip().endswith('exec "$@"')


def test_the_container_does_not_run_as_root() -> None:
    """The last USER was created before, and owns the files."""
    (user,) = [rest for word, rest in instructions() if word == 'USER']
    (made,) = [c for c in commands() if c.startswith('useradd')]
    assert shlex.split(made)[-1] == user == devcontainer()['remoteUser'] == 'ros'
    owners = re.findall(r'--chown=(\w+):', (ROOT / 'docker/Dockerfile').read_text())
    assert owners == [user]


def test_package_xml_has_the_dependency_that_venv_needs() -> None:
    keys = {element.text for element in package() if element.tag.endswith('depend')}
    assert {'python3-venv', 'ros2launch', 'rosbag2_storage_mcap'} <= keys
    assert any(command.startswith('rosdep install --from-paths src') for command in commands())


def test_the_extras_are_those_of_setup_py() -> None:
    tree = ast.parse((ROOT / 'setup.py').read_text())
    (extras,) = [
        {key.value for key in statement.value.keys}
        for statement in tree.body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == 'EXTRAS'
    ]
    (install,) = [command for command in commands() if 'pip install' in command]
    (path, named) = re.search(r'(\S+)\[([\w,]+)\]', install.replace("'", '')).groups()
    assert f'{WORKSPACE}/{path}' == INSIDE
    assert set(named.split(',')) <= extras


def test_the_launch_files_and_their_arguments_exist() -> None:
    (shown,) = [json.loads(rest) for word, rest in instructions() if word == 'CMD']
    reported = [
        shlex.split(command) for command in [*commands(), shlex.join(shown)] if 'ros2' in command
    ]
    assert len(reported) == 3
    for words in reported:
        begin = words.index('ros2')
        assert words[begin : begin + 3] == ['ros2', 'launch', 'surgseg_ros']
        text = (ROOT / 'launch' / words[begin + 3]).read_text()
        for argument in words[begin + 4 :]:
            name = argument.partition(':=')[0]
            assert argument == '--show-args' or re.search(
                rf"DeclareLaunchArgument\(\s*'{name}'", text
            )


def test_files_and_arguments_of_docker_commands_exist() -> None:
    arguments = {rest.split('=')[0] for word, rest in instructions() if word == 'ARG'}
    page = (ROOT / 'docs/containers.md').read_text()
    assert set(re.findall(r'--build-arg (\w+)', page)) == arguments == {'USER_ID'}
    built = [shlex.split(command) for command in commands() if command.startswith('docker build')]
    assert len(built) == 2
    for words in built:
        assert (ROOT / words[words.index('--file') + 1]).is_file()
    assert {words[words.index('--tag') + 1] for words in built} == {'surgseg_ros'}


def test_the_target_stage_of_the_development_container_has_what_it_needs() -> None:
    settings = devcontainer()
    build, folder = settings['build'], ROOT / '.devcontainer'
    assert (folder / build['dockerfile']).resolve() == ROOT / 'docker/Dockerfile'
    assert (folder / build['context']).resolve() == ROOT
    assert build['target'] in stages()
    assert settings['workspaceFolder'] == INSIDE
    assert f'target={INSIDE},' in settings['workspaceMount']
    targets = re.findall(r'make (\w+)', settings['postCreateCommand'])
    assert targets == ['setup']


def test_targets_of_make_and_verbs_on_the_page_exist() -> None:
    page = (ROOT / 'docs/containers.md').read_text()
    assert set(re.findall(r'`make (\w+)`', page)) <= make_targets()
    assert set(re.findall(r'ros2 run surgseg_ros (\w+)', page)) <= set(VERBS)
    for target in re.findall(r'\]\(([^)]+)\)', page):
        assert (ROOT / 'docs' / target).exists(), target
