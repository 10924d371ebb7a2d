"""The checks of `make test` can fail: on a small course made here each is green, then catches its fault."""
import json
import shutil
import sys
from pathlib import Path

import pytest

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here / '.ci'))
import checks  # noqa: E402
import lessons  # noqa: E402


def markdown(source):
    return dict(cell_type='markdown', metadata={}, source=source.splitlines(True))


def code(source, *outputs):
    lines = source.splitlines(True)
    return dict(cell_type='code', execution_count=None, metadata={}, outputs=list(outputs), source=lines)


def stream(text, name='stdout'):
    return dict(output_type='stream', name=name, text=text.splitlines(True))


def write(path, *cells, **metadata):
    "A notebook in the very form in which nbdev_clean leaves one."
    cells = [{**cell, 'id': f'c{number}'} for number, cell in enumerate(cells)]
    kernel = dict(display_name='python3', language='python', name='python3')
    nb = dict(cells=cells, metadata=dict(kernelspec=kernel, **metadata), nbformat=4, nbformat_minor=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def change(path, cell=None, **fields):
    "Change fields of one cell, or of the metadata, of a notebook."
    nb = lessons.read(path)
    (nb['metadata'] if cell is None else nb['cells'][cell]).update(fields)
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def save_hashes(path, root, **more):
    nb = lessons.read(path)
    change(path, lessondl=dict(hash=lessons.code_hash(nb, root), outputs=lessons.outputs_hash(nb),
                               seconds=7, threads=2, data='real') | more)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "Two rooms, the second built on the first, with what they export."
    root = tmp_path_factory.mktemp('course')
    shutil.copy(here / 'settings.ini', root)
    shutil.copy(here / 'pyproject.toml', root)
    (root / 'lessondl').mkdir()
    (root / 'lessondl' / '__init__.py').write_text('__version__ = "0.1.0"\n')
    first, second = root / 'nbs' / '00_one.ipynb', root / 'nbs' / '01_two.ipynb'
    write(first, markdown('# One\n\n> What is one?'), code('#| default_exp one'),
          code('#| export\ndef one():\n    "The first number."\n    return 1'))
    write(second, markdown('# Two\n\n> What is two,\n> and why?'), code('#| default_exp two'),
          code('#| export\nfrom lessondl.one import one\n\n\ndef two():\n    return one() + one()'),
          code('from lessondl.two import two\n\nprint(two())', stream('2\n')))
    assert checks.nbdev('doclinks', 'nbdev_export', root) == ''
    (root / 'README.md').write_text(f'# Numbers\n\n{lessons.begin}\n{lessons.end}\n\nThe end.\n')
    for path in (first, second):
        save_hashes(path, root)
    (root / 'README.md').write_text(lessons.readme_with_lessons(root))
    return root


@pytest.fixture
def course(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / 'course'))


def only(faults, *words):
    "There is exactly one fault, and it holds all these words."
    assert len(faults) == 1, faults
    assert all(word in faults[0] for word in words), faults[0]
    return True


def test_all_green(course):
    for name, check in checks.checks.items():
        assert check(course) == [], name


# ---- export ----

def test_export_finds_a_module_edited_by_hand(course):
    module = course / 'lessondl' / 'one.py'
    module.write_text(module.read_text().replace('return 1', 'return 2'))
    assert only(checks.export(course), 'one.py', 'make export')
    assert 'return 2' in module.read_text(), 'a check changes nothing'


def test_export_finds_an_edited_notebook_even_with_in_test_set(course, monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    change(course / 'nbs' / '00_one.ipynb', 2, source='#| export\ndef one(): return 3 - 2')
    assert only(checks.export(course), 'one.py')


def test_export_finds_missing_and_left_over_modules(course):
    (course / 'lessondl' / 'old_room.py').write_text('x = 1\n')
    (course / 'lessondl' / 'two.py').unlink()
    faults = checks.export(course)
    assert any('old_room.py comes from no notebook' in f for f in faults)
    assert any('two.py is missing' in f for f in faults)


def test_export_reports_a_failing_export(course):
    change(course / 'nbs' / '00_one.ipynb', 2, source='#| export nowhere\nx = 1')
    assert only(checks.export(course), 'nbdev_export failed', 'nowhere')


# ---- clean ----

@pytest.mark.parametrize('fields', [dict(execution_count=3), dict(metadata={'collapsed': True})])
def test_clean_finds_traces_of_a_run(course, fields):
    change(course / 'nbs' / '01_two.ipynb', 3, **fields)
    before = (course / 'nbs' / '01_two.ipynb').read_bytes()
    assert only(checks.clean(course), '01_two', 'make export')
    assert (course / 'nbs' / '01_two.ipynb').read_bytes() == before, 'a check changes nothing'


def test_clean_finds_broken_json(course):
    path = course / 'nbs' / '01_two.ipynb'
    path.write_text(path.read_text().replace('"cells": [', '"cells": [\n<<<<<<< HEAD'))
    assert only(checks.clean(course), '01_two', 'broken')


def test_clean_finds_two_cells_with_one_id(course):
    change(course / 'nbs' / '01_two.ipynb', 3, id='c1')
    assert only(checks.clean(course), "'c1'")


# ---- rooms ----

def test_rooms_finds_a_room_that_stands_on_a_later_one(course):
    with (course / 'lessondl' / 'one.py').open('a') as module:
        module.write('\n\ndef late():\n    from .two import two\n    return two()\n')
    assert only(checks.rooms(course), 'one.py', '00_one', "'two'", '01_two')


# ---- hidden ----

@pytest.mark.parametrize('source, word', [
    ('#| eval: false\nx = 1', 'eval'), ('#|eval:False\nx = 1', 'eval'), ('#| notest\nx = 1', 'notest'),
    ('from nbdev import nbdev_export\nnbdev_export' + '()', 'nbdev_export'),
    ("import os\nif 'IN_TEST' not in os.environ:\n    x = 1", 'not none'),
    ('#| slow\nx = 1', 'no reason'), ('#| slow\n#| export\nx = 1', 'no reason'),
])
def test_hidden_finds_cells(course, source, word):
    change(course / 'nbs' / '01_two.ipynb', 3, source=source)
    assert only(checks.hidden(course), '01_two', 'cell 4', word)


@pytest.mark.parametrize('source', [
    '#| slow\n# 41 epochs: 30 minutes on two cores\nx = 1', '#| slow: 30 minutes\nx = 1',
    "import os\nif 'IN_TEST' in os.environ:\n    x = 1", 'evaluate = False\nslow = 1\nnotest = 2',
])
def test_hidden_lets_pass(course, source):
    change(course / 'nbs' / '01_two.ipynb', 3, source=source)
    assert checks.hidden(course) == []


def test_hidden_finds_notebooks(course):
    nbs = course / 'nbs'
    change(nbs / '00_one.ipynb', 0, source='---\nskip_exec: true\n---')
    change(nbs / '01_two.ipynb', kernelspec=dict(name='ir', language='R'))
    write(nbs / '_03_three.ipynb', code('1'))
    write(nbs / 'more' / '04_four.ipynb', code('1'))
    (nbs / 'more' / '.notest').touch()
    faults = '\n'.join(checks.hidden(course))
    for word in ('skip_exec', "'R'", '_03_three', 'more/.notest'):
        assert word in faults
    assert len(faults.splitlines()) == 4


# ---- outputs ----

def test_outputs_finds_changed_code(course):
    change(course / 'nbs' / '01_two.ipynb', 3, source='from lessondl.two import two\n\nprint(two() + 1)')
    assert only(checks.outputs(course), '01_two', 'make lessons LESSON=01_two')


def test_outputs_finds_a_change_in_a_module_of_a_module(course):
    module = course / 'lessondl' / 'one.py'
    module.write_text(module.read_text().replace('return 1', 'return 10'))
    assert only(checks.outputs(course), '01_two', 'has changed')


def test_outputs_ignores_comments_layout_and_docstrings(course):
    module = course / 'lessondl' / 'one.py'
    module.write_text(module.read_text().replace('"The first number."', '"Better words."\n\n    # a comment'))
    change(course / 'nbs' / '01_two.ipynb', 3, source='from lessondl.two import two  # a\nprint( two() )')
    assert checks.outputs(course) == []


def test_outputs_finds_changed_benchmark_results(course):
    path, results = course / 'nbs' / '01_two.ipynb', course / 'benchmarks' / 'results' / 'ladder.json'
    results.parent.mkdir(parents=True)
    results.write_text('{"accuracy": 0.86}')
    change(path, 3, source="name = 'ladder.json'")
    save_hashes(path, course)
    assert checks.outputs(course) == []
    results.write_text('{"accuracy": 0.87}')
    assert only(checks.outputs(course), '01_two')


@pytest.mark.parametrize('outputs', [[], [stream('3\n')]])
def test_outputs_finds_removed_and_changed_outputs(course, outputs):
    change(course / 'nbs' / '01_two.ipynb', 3, outputs=outputs)
    assert only(checks.outputs(course), '01_two', 'something other')


def test_outputs_finds_lessons_that_never_ran_or_ran_on_stand_ins(course):
    write(course / 'nbs' / '02_three.ipynb', code('x = 3'))
    save_hashes(course / 'nbs' / '01_two.ipynb', course, data='stand-in')
    faults = checks.outputs(course)
    assert len(faults) == 2 and 'stand-in' in faults[0] and 'never' in faults[1]


def text_plain(text, mime='text/plain'):
    return dict(output_type='execute_result', data={mime: [text]}, execution_count=None, metadata={})


@pytest.mark.parametrize('output, word', [
    (dict(output_type='error', ename='ValueError', evalue='no', traceback=[]), 'ValueError'),
    (stream('UserWarning: old\n', 'stderr'), 'stderr'),
    (stream('saved /home/ada/model.pt\n'), '/home/ada/model.pt'),
    (text_plain("PosixPath('/tmp/x1')"), '/tmp/x1'),
    (text_plain('<b>/opt/a</b>', 'text/html'), '/opt/a'),
    (stream('C:\\Users\\ada\\x\n'), 'Users'),
    (text_plain('<function f at 0x7f1234567890>'), '0x7f1234567890'),
    (text_plain('', 'application/vnd.jupyter.widget-view+json'), 'widget'),
])
def test_outputs_finds_what_no_output_may_hold(course, output, word):
    path = course / 'nbs' / '01_two.ipynb'
    change(path, 3, outputs=[output])
    save_hashes(path, course)
    assert only(checks.outputs(course), 'cell 4', word)


@pytest.mark.parametrize('output', [
    stream('accuracy 1/2, see http://localhost/home/x, nbs/tmp/a, 0xff\n'),
    text_plain('<img src="data:image/png;base64,AAAA+/tmp/xyz0x123456789a">', 'text/html'),
])
def test_outputs_lets_pass(course, output):
    path = course / 'nbs' / '01_two.ipynb'
    change(path, 3, outputs=[output])
    save_hashes(path, course)
    assert checks.outputs(course) == []


def test_outputs_finds_a_notebook_that_is_too_large(course):
    path = course / 'nbs' / '01_two.ipynb'
    change(path, 3, outputs=[stream('many words\n' * 60_000)])
    save_hashes(path, course)
    assert only(checks.outputs(course), 'MB')


# ---- README ----

def test_readme(course):
    readme = course / 'README.md'
    row = '| [01_two](nbs/01_two.ipynb) | What is two, and why? | `two` | 7 s |'
    assert row in readme.read_text() and readme.read_text().endswith(f'{lessons.end}\n\nThe end.\n')
    save_hashes(course / 'nbs' / '01_two.ipynb', course, seconds=130)
    assert only(checks.readme(course), 'lessons.py readme')
    assert '| 2 min |' in lessons.readme_with_lessons(course)
    readme.write_text('# Numbers\n')
    assert only(checks.readme(course), 'README.md needs')


# ---- the run that saves ----

def test_run_saves_outputs_that_pass_every_check(course, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(course))
    path = course / 'nbs' / '01_two.ipynb'
    change(path, 3, source='print(1 + 1, end="")\nprint("!")', outputs=[])
    change(path, lessondl={})
    assert lessons.run(path, course)
    assert checks.outputs(course) == [] and checks.clean(course) == []
    nb = lessons.read(path)
    assert nb['cells'][3]['outputs'][0]['text'] == ['2!\n']
    assert nb['metadata']['lessondl']['data'] == 'real'


@pytest.mark.parametrize('source, word', [
    ('1 / 0', 'ZeroDivisionError'), ('import sys\nprint("!", file=sys.stderr)', 'stderr')])
def test_run_keeps_the_old_outputs_of_a_lesson_that_fails(course, source, word, capsys, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(course))
    path = course / 'nbs' / '01_two.ipynb'
    change(path, 3, source=source)
    before = path.read_bytes()
    assert not lessons.run(path, course)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ['00_one.ipynb', '01_two.ipynb']
    said = capsys.readouterr().err
    assert 'cell 4' in said and word in said
