"""The map keeps its word: links, terms, names and quoted errors are those of the course as it is."""
import ast
import csv
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest
import torch

root = Path(__file__).resolve().parent.parent
nbs = root / 'nbs'


def markdown(path: Path) -> str:
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


index = markdown(nbs / 'index.ipynb')
existing = sorted(p.stem for p in nbs.glob('[0-9]*.ipynb'))


def section(title: str) -> str:
    "The text under a heading, up to the next heading of the same level or a higher one."
    level, rest = re.search(rf'^(#+) {re.escape(title)}\n(.*)', index, re.M | re.S).groups()
    return re.split(rf'^#{{1,{len(level)}}} ', rest, maxsplit=1, flags=re.M)[0]


def table(text: str) -> list[list[str]]:
    "The rows of Markdown tables, without their heads."
    lines = [line.strip('|') for line in text.splitlines() if line.startswith('|')]
    rows = [[c.strip() for c in line.split('|')] for line in lines]
    rules = [i for i, r in enumerate(rows) if re.fullmatch('-+', r[0])]
    return [r for i, r in enumerate(rows) if i not in rules and i + 1 not in rules]


def messages() -> list[str]:
    "Every text in the library's code, with `...` where something is put in."
    found = []
    for path in sorted((root / 'lessondl').glob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.JoinedStr):
                found.append(''.join(v.value if isinstance(v, ast.Constant) else '...' for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


texts = messages()
ours = [row[0].strip('`') for name in ('Data', 'Training', 'Learning rates') for row in table(section(name))]


@pytest.mark.parametrize('quote', ours)
def test_each_quoted_error_is_a_text_of_the_library(quote):
    assert any(quote in text for text in texts)


def test_errors_of_pytorch_read_as_quoted():
    quotes = [row[0].strip('`') for row in table(section('From Python and PyTorch'))]
    x = torch.ones(1, 2, requires_grad=True)

    def twice(loss): loss.backward(); loss.backward()
    raised = []
    for bad in (lambda: __import__('lessondl_') and None, lambda: torch.nn.Linear(3, 1)(x),
                lambda: torch.ones(1).backward(), lambda: twice((x ** 2).sum()),
                lambda: torch.nn.BatchNorm1d(2)(x)):
        with pytest.raises((RuntimeError, ValueError, ImportError)) as error:
            bad()
        raised.append(str(error.value).replace('lessondl_', 'lessondl'))
    assert [q for q, r in zip(quotes, raised, strict=True) if q not in r] == []


def bold(lesson: str) -> set[str]:
    "What stands in bold in a lesson; stars in code are powers."
    prose = re.sub(r'```.*?```|`[^`\n]*\*\*[^`\n]*`', '', markdown(nbs / f'{lesson}.ipynb'), flags=re.S)
    return {re.sub(r'\s+', ' ', b) for b in re.findall(r'\*\*(.+?)\*\*', prose, re.S)}


@pytest.mark.parametrize('row', table(section('Terms, and the lesson that defines each')), ids=lambda r: r[0])
def test_each_term_is_bold_in_its_lesson(row):
    term, lesson, path = row[0], *re.fullmatch(r'\[(\w+)\]\((\w+\.ipynb)\)', row[1]).groups()
    assert path == f'{lesson}.ipynb'
    assert term in bold(lesson)


def test_terms_stand_once_and_in_order():
    terms = [row[0].lower() for row in table(section('Terms, and the lesson that defines each'))]
    assert len(terms) > 40 and terms == sorted(set(terms))


# bold, and no terms: what begins a paragraph. Those that end in a stop or a colon need no place here
no_terms = {'at the end you will have built', 'at the end you will have', 'at the end of this lesson',
            'you will have built', 'needs',
            'you need', 'time', 'the notes', 'a refactoring is proved when it gives the same numbers'}


@pytest.mark.parametrize('lesson', existing)
def test_each_bold_term_of_a_lesson_is_in_the_table(lesson):
    terms = {row[0].lower() for row in table(section('Terms, and the lesson that defines each'))}
    found = {b.lower() for b in bold(lesson)}
    assert sorted(b for b in found - no_terms - terms if b[-1] not in '.:?') == []


notes = list(csv.DictReader((nbs / 'notes.csv').read_text(encoding='utf-8').splitlines()))


@lru_cache
def sections(lesson: str) -> dict[str, str]:
    "What stands between each heading of a lesson and the next: prose, code and printed text, on one line."
    texts, heading, fenced = {}, '', False
    for cell in json.loads((nbs / f'{lesson}.ipynb').read_text(encoding='utf-8'))['cells']:
        prose = cell['cell_type'] == 'markdown'
        for line in ''.join(cell['source']).splitlines():
            fenced ^= prose and line.startswith('```')
            found = re.fullmatch(r'#+ +(.+?) *', line) if prose and not fenced else None
            if found: heading, line = found[1], ''
            texts[heading] = f'{texts.get(heading, "")} {line}'
        for out in cell.get('outputs', []):
            texts[heading] += ' ' + ''.join(out.get('text') or out.get('data', {}).get('text/plain', ''))
    return {heading: re.sub(r'\s+', ' ', text) for heading, text in texts.items()}


def leads_there(row: dict) -> bool:
    "Does the heading exist, and does what the row promises stand under it?"
    return row['shows'] in sections(row['lesson']).get(row['cell'], '')


@pytest.mark.parametrize('row', notes, ids=lambda r: f'{r["notes"]}-{r["heading"]}')
def test_each_heading_of_the_notes_has_its_place(row):
    assert all(row.values()) and list(row) == ['notes', 'heading', 'lesson', 'cell', 'shows']
    assert row['cell'] in sections(row['lesson'])
    assert leads_there(row), f'{row["shows"]!r} does not stand under {row["cell"]!r} of {row["lesson"]}'
    elsewhere = [heading for heading, text in sections(row['lesson']).items() if row['shows'] in text]
    assert len(elsewhere) <= 3, 'words that stand everywhere would not tell a wrong place'


def test_a_row_that_leads_elsewhere_is_found():
    row = next(r for r in notes if r['heading'] == 'Dogbreed data set')
    assert leads_there(row)
    assert not leads_there(row | dict(lesson='11_transfer', cell='Why rules fail'))     # as it once was
    assert not leads_there(row | dict(cell='Sizes first')) and not leads_there(row | dict(cell='No such'))
    assert not leads_there(row | dict(shows='121 breeds'))
    for row in notes:                                                # no heading would do for every row
        assert any(not leads_there(row | dict(cell=cell)) for cell in sections(row['lesson']))


def test_the_headings_of_the_notes_stand_once():
    pairs = [(row['notes'], row['heading']) for row in notes]
    assert len(pairs) > 60 and len(pairs) == len(set(pairs))


def test_the_lessons_are_those_that_exist():
    outputs = next(c['source'] for c in json.loads((nbs / 'index.ipynb').read_text(encoding='utf-8'))['cells']
                   if c['cell_type'] == 'code')
    for name in ('needs', 'uses'):
        told = ast.literal_eval(re.search(rf'^{name} = (\{{.*?\}})', ''.join(outputs), re.M | re.S)[1])
        assert sorted(told) == existing


@pytest.mark.parametrize('path', sorted(nbs.glob('*.ipynb')), ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    links = re.findall(r'\]\((?!https?:|#)([^)#\s]+)', markdown(path))
    assert links or path.stem != 'index'
    assert [link for link in links if not (nbs / link).exists()] == []


def test_our_names_beside_those_of_fastai_exist():
    from lessondl import metrics
    from lessondl.augment import augmentations
    from lessondl.data import ImageData
    from lessondl.learner import Learner, Recorder
    rows = table(section('Names of fast.ai beside ours'))
    here = ' '.join(row[2] for row in rows)
    for owner, pattern in ((Learner, r'learn\.(\w+)\('), (Recorder, r'learn\.recorder\.(\w+)\('),
                           (ImageData, r'(?:ImageData|\bdata)\.(\w+)\(')):
        names = set(re.findall(pattern, here))
        assert len(names) > 2 and [n for n in names if not hasattr(owner, n)] == []
    assert set(re.findall(r"aug='([^']+)'", here)) <= set(augmentations)
    assert all(hasattr(metrics, n) for n in ('accuracy', 'f2', 'f_beta'))
