# SPDX-License-Identifier: Apache-2.0
"""Names are standard terms: names that were private to this project are not used again."""

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = sorted(
    path
    for folder in ('surgseg_ros', 'tools', 'test', 'launch')
    for path in (ROOT / folder).rglob('*.py')
)

PRIVATE: Final = {
    *('scrutiny', 'Eye', 'Doubt', 'Oddity', 'Course', 'signs', 'Look', 'look_at', 'sureness'),
    *('drop_unsure', 'Steadier', 'Steadied', 'steadied', 'lay', 'settle', 'certainty'),
    *('Certainty', 'intake', 'Intake', 'Rescue', 'halve', 'upkeep', 'look_after', 'folding'),
    *('fold', 'bounds', 'give_back', 'share_cores', 'Rules', 'lateness', 'most_pictures'),
    *('lockstep', 'tally', 'Tally', 'Shelf', 'fate', 'Way', 'way', 'ways', 'here', 'Guess'),
    *('Aside', 'Lost', 'ahead', 'Helpers', 'Moment', 'moment', 'moments', 'cloud', 'survey'),
    *('look_over', 'end_with_parent', 'remains', 'CutMcap', 'Views', 'Stretch', 'sift'),
    *('faults', 'card', 'Wishes', 'lying', 'handheld', 'reach', 'Picture', 'picture'),
    *('pictures', 'Ear', 'Told', 'told', 'say', 'said', 'fault', 'find_fault', 'fault_of'),
    *('is_settled', 'unsure', 'aside', 'eye', 'eyes', 'Eyes', 'least', 'Least', 'most', 'Most'),
    *('farthest', 'dubious', 'doubted', 'doubtful', 'shunned', 'misshapen', 'nameless', 'slip'),
    *('slips', 'spoiler', 'Spoiler', 'spoilers', 'take_turns', 'deaf', 'hurry'),
    *('course', 'settled', 'guess', 'look'),
    *('offenders', 'tidied', 'tidying', 'PatientExecutor', 'Rescue', 'Steady', 'steady_mask'),
    *('passes', 'place', 'places', 'Place', 'Placed', 'trouble', 'troubles', 'strangers'),
    *('Wander', 'Answer', 'Wholes', 'sighting', 'Sighting', 'complaints', 'companions', 'chance'),
    *('gape', 'furnish', 'fitted_frames'),
}
"""Each has another name now, see the changelog; they must not be parts of longer names either."""

KEPT: Final = {
    *('model_card', 'picture_every', 'picture_format', 'on_fault', 'ON_FAULT'),
    *('least_area', 'least_area_px', 'DEFAULT_LEAST_AREA', 'least_region', 'least_distances'),
    *('most_common', 'at_least', 'at_most'),
}
"""Plain words, names of libraries, and parameters, options, keys and former names of users."""

CODED: Final = {'picture', '_picture'}
"""Standards of codecs use the word picture, and so does `evaluation/videos`."""

WHOLE: Final = {'cells'}
"""Private as a whole name; a part of a longer one may mean a grid's cell."""

PREFIXES: Final = ('see_', 'say_', 'tell_')


def parts(name):
    """Yield the words in a name, and each pair and triple of consecutive words."""
    words = re.findall('[A-Z]?[a-z0-9]+|[A-Z0-9]+', name)
    words = [word.lower() if word.isupper() else word for word in words]
    for count in (1, 2, 3):
        for start in range(len(words) - count + 1):
            yield '_'.join(words[start : start + count])


def is_private(name):
    name = name.lstrip('_')
    if name in PRIVATE | WHOLE or name.startswith(PREFIXES):
        return True
    if name in KEPT or name.startswith('test_'):  # the name of a test is a sentence
        return False
    return not PRIVATE.isdisjoint(parts(name))


def test_private_words_are_found_within_names():
    for name in ('MOMENTS', '_MOST_MOMENTS', 'PictureBag', 'look_at_all', 'a_picture', 'see_it'):
        assert is_private(name), name
    for name in ('model_card', 'discard', 'COLOR_LOST', 'overlay', 'test_the_way_back', 'highway'):
        assert not is_private(name), name


def names_in(tree):
    """Yield the names that are defined, stored or read, and keyword arguments, with lines."""
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name='place') | ast.alias(name='place'):
                pass  # the verb
            case ast.Name(id='place') | ast.Attribute(attr='place') if node in called:
                pass
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno
            case ast.arg() | ast.keyword(arg=str()):
                yield node.arg, node.lineno
            case ast.Attribute(value=ast.Name(id='np'), attr='eye'):
                pass
            case ast.Attribute():
                yield node.attr, node.lineno
            case ast.Name():
                yield node.id, node.lineno
            case ast.ImportFrom(module=str()):
                yield node.module.rpartition('.')[2], node.lineno
            case ast.alias():
                yield node.asname or node.name.rpartition('.')[2], node.lineno
            case ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()):
                yield node.name, node.lineno


def test_names_are_found_where_they_are_read_too():
    text = 'from a.b import c as d\ne(f.g, h=i)\ntry: j = 1\nexcept K as m: pass'
    found = {name for name, _ in names_in(ast.parse(text))}
    assert found == {'b', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'K', 'm'}


def test_place_is_a_verb():
    text = 'def place(): pass\nplace()\na.place()'
    assert 'place' not in {name for name, _ in names_in(ast.parse(text))}
    assert 'place' in {name for name, _ in names_in(ast.parse('place = a.place'))}


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_private_to_the_project(path):
    kept = CODED if 'videos' in path.parts else set()
    names = [(path.stem, 0), *names_in(ast.parse(path.read_text(encoding='utf-8')))]
    found = [
        f'{path.relative_to(ROOT)}:{line}: {name}'
        for name, line in names
        if is_private(name) and name not in kept
    ]
    assert not found


JARGON: Final = re.compile(
    r'\b(scrutin\w+|sureness|unsure|steadied|Steadier|lateness|upkeep|tall(y|ies)|shel(f|ves)|'
    r'oddit(y|ies)|anew|wishes|aside|rescues?|certainty|handheld|sift(s|ed)?|look_after|'
    r'drop_unsure|told)\b',
    re.IGNORECASE,
)
"""Words that had a private meaning in documentation, comments and messages."""

PAGES: Final = sorted(
    path
    for pattern in ('README.md', 'CONTRIBUTING.md', 'docs/*.md', 'config/**/*.yaml', 'launch/*.py')
    for path in ROOT.glob(pattern)
    if path.name != 'upgrading.md'  # which lists them
)
CODE: Final = [path for path in SOURCES if 'test' not in path.relative_to(ROOT).parts[:1]]


@pytest.mark.parametrize('path', [*PAGES, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_has_a_word_that_is_private_to_the_project(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    assert not [f'{n}: {line}' for n, line in enumerate(lines, 1) if JARGON.search(line)]


def test_private_words_in_sentences_are_found():
    assert JARGON.search('the scrutiny of a mask')
    assert not JARGON.search('the postprocessing of a mask')
