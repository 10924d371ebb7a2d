"Submissions: what is written and what is refused; ids and names that lie in wait"

import csv
import gzip
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessondl.submission import picture_id, plain_text, submission, submission_frame

good = torch.tensor([[0.9, 0.1], [0.25, 0.75], [1 / 3, 2 / 3]])
names, classes = ['test/b.jpg', 'a.PNG', 'c'], ['boxy', 'round']


def read(path):
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == '.gz' else raw).decode()
    return list(csv.reader(io.StringIO(text)))


class Asked:
    "What a Learner shows to `submission`"

    def __init__(self, **kw):
        self.data = SimpleNamespace(**{'classes': classes, 'test': SimpleNamespace(names=names), **kw})

    def get_preds(self, split):
        return good, torch.full((3,), -1)


@pytest.mark.parametrize('name', ['s.csv', 's.csv.gz', 'new/folder/s.gz'])
def test_a_file_holds_ids_classes_and_every_bit(tmp_path, name):
    path = submission(good, names, classes, tmp_path / name)
    header, *rows = read(path)
    assert path == tmp_path / name and header == ['id', 'boxy', 'round']
    assert [r[0] for r in rows] == ['b', 'a', 'c']
    assert np.array_equal(np.array([r[1:] for r in rows], np.float32), good.numpy())
    assert not [f for f in path.parent.iterdir() if f.name.endswith('.part')]


def test_the_same_predictions_are_the_same_bytes(tmp_path):
    one, two = (submission(good, names, classes, tmp_path / f'{i}.csv.gz') for i in range(2))
    assert one.read_bytes() == two.read_bytes()


kinds = torch.float16, torch.bfloat16, torch.float32, torch.float64, 'array', 'list', 'grad'


@pytest.mark.parametrize('kind', kinds)
def test_probabilities_of_any_kind(tmp_path, kind):
    probs = good.to(kind) if isinstance(kind, torch.dtype) else good
    others = {'array': good.numpy(), 'list': good.tolist(), 'grad': good.clone().requires_grad_()}
    probs = others.get(kind, probs)
    rows = read(submission(probs, names, classes, tmp_path / 's.csv'))[1:]
    assert np.allclose(np.array([r[1:] for r in rows], float), good.numpy(), atol=1e-2)


def test_a_learner_brings_names_and_classes(tmp_path):
    assert read(submission(Asked(), path=tmp_path / 's.csv')) == read(
        submission(good, names, classes, tmp_path / 't.csv')
    )
    assert read(submission(Asked(), names='xyz', path=tmp_path / 's.csv'))[1][0] == 'x'
    with pytest.raises(ValueError, match='names must be given'):
        submission(Asked(test=SimpleNamespace()), path=tmp_path / 'n.csv')
    with pytest.raises(ValueError, match='classes must be given'):
        submission(Asked(classes=None), path=tmp_path / 'n.csv')
    with pytest.raises(ValueError, match='a new order each time'):
        submission(Asked(), path=tmp_path / 'n.csv', split='train')
    assert not (tmp_path / 'n.csv').exists()


def test_a_real_learner_with_a_test_set_without_labels(tmp_path):
    from torch import nn

    from lessondl.data import ImageData
    from lessondl.learner import Learner

    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for y in (np.arange(12) % 3, np.eye(3, dtype=int)[np.arange(12) % 3]):  # one label, many labels
        data = ImageData.from_arrays(x, y, x, y, ['a', 'b', 'c'], test=x[:5])
        learn = Learner(data, nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), progress=False)
        rows = read(submission(learn, path=tmp_path / 's.csv.gz'))
        assert rows[0] == ['id', 'a', 'b', 'c'] and [r[0] for r in rows[1:]] == list('01234')
        written = torch.tensor(np.array([r[1:] for r in rows[1:]], float)).float()
        assert torch.equal(written, learn.get_preds('test')[0])


@pytest.mark.parametrize(
    'probs, kw, words',
    [
        (good.log(), {}, 'go from .* to .*Of log-probabilities take exp'),
        (good * 3, {}, 'of logits softmax or sigmoid'),
        (good * float('nan'), {}, 'from 0 to 1'),
        (torch.stack([good, good]), {}, r'probs.mean\(0\)'),
        (good[:2], {}, r'3 names and 2 classes need probabilities \[3, 2\].* \[2, 2\]'),
        (good[:, :1], {}, r'these are \[3, 1\]'),
        (good[0], {}, r'these are \[2\]'),
        (good[:0], {'names': []}, 'none of them 0'),
        (good, {'names': ['a.jpg', 'b/a.png', 'c.jpg']}, "the id 'a' comes twice"),
        (good, {'classes': ['x', 'x']}, "the column 'x' comes twice"),
        (good, {'id_col': 'boxy'}, "the column 'boxy' comes twice"),
        (good, {'classes': ['x', '=cmd()']}, "the column '=cmd\\(\\)' would be a formula"),
        (good, {'id_col': '@id'}, "the column '@id' would be a formula"),
        (good, {'names': ['a', 'b', '+c.jpg']}, "the id '\\+c' would be a formula"),
        (good, {'names': None}, 'names must be given'),
        (good, {'classes': None}, 'classes must be given'),
        (good, {'formulas': 'yes'}, "'refuse', 'prefix' or 'keep'"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_old_file_stays(tmp_path, probs, kw, words):
    path = tmp_path / 's.csv'
    path.write_text('old')
    with pytest.raises(ValueError, match=words):
        submission(probs, **{'names': names, 'classes': classes, 'path': path, **kw})
    with pytest.raises(ValueError, match=words):
        submission_frame(probs, **{'names': names, 'classes': classes, **kw})
    assert path.read_text() == 'old' and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = submission(good, names, classes, tmp_path / 's.csv')
    before = path.read_bytes()

    def full(self, data):
        with open(self, 'wb') as f:
            f.write(data[:5])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='s.csv could not be written .*No space left.*kept as it was'):
        submission(good.flip(0), names, classes, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_names_with_commas_quotes_and_line_breaks_come_back(tmp_path):
    odd = ['a, b', 'say "x"\nor so']
    header, *rows = read(submission(good, ['1,2', '"', 'ä ü 猫.jpg'], odd, tmp_path / 's.csv'))
    assert header == ['id', *odd] and [r[0] for r in rows] == ['1,2', '"', 'ä ü 猫']


def test_the_frame_is_what_the_file_holds(tmp_path):
    pd = pytest.importorskip('pandas')
    frame = submission_frame(good, names, classes, id_col='image_name')
    file = submission(good, names, classes, tmp_path / 's.csv.gz', 'image_name')
    back = pd.read_csv(file, dtype={'image_name': str})
    assert list(frame) == list(back) == ['image_name', *classes]
    assert list(frame.image_name) == list(back.image_name)
    assert np.array_equal(frame[classes].to_numpy(), back[classes].to_numpy(np.float32))


@pytest.mark.parametrize('formulas', ['keep', 'prefix'])
def test_the_frame_has_the_header_of_the_file(tmp_path, formulas):
    pytest.importorskip('pandas')
    given = dict(names=['=a', 'b', 'c'], classes=['=1+1', 'x'], id_col='=id', formulas=formulas)
    frame = submission_frame(good, **given)
    rows = read(submission(good, path=tmp_path / 's.csv', **given))
    assert list(frame) == rows[0] and frame.iloc[:, 0].tolist() == [r[0] for r in rows[1:]]


@pytest.mark.parametrize(
    'name, want',
    [
        ('test/0042.jpg', '0042'),
        ('0042.JPEG', '0042'),
        ('0042', '0042'),
        ('scan.2018', 'scan.2018'),
        ('scan.2018.tiff', 'scan.2018'),
        ('.jpg', '.jpg'),
        (7, '7'),
    ],
)
def test_ids_are_cut_by_name(name, want):
    assert picture_id(str(name)) == want


texts = st.text(st.sampled_from('=+-@ab1 ;,\t\n\r\'"＝.'), max_size=8)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_no_cell_is_left_that_begins_like_a_formula(text):
    "Whatever separates cells in whichever country, none begins with a sign that starts a formula"
    safe = plain_text(text, formulas='prefix')
    cells = [c.strip() for c in io.StringIO(safe, newline='').read().replace('\r', '\n').replace(';', '\n')
             .replace(',', '\n').replace('\t', '\n').split('\n')]
    number = safe.lstrip('+-').replace('.', '', 1).isdigit()
    assert number or not any(c[:1] and c[0] in '=+-@＝' for c in cells), (text, safe)
    assert safe.replace("'", '') == text.replace("'", '') and plain_text(text, formulas='keep') == text
    if safe == text:
        assert plain_text(text) == text
    else:
        with pytest.raises(ValueError, match='would be a formula'):
            plain_text(text)
