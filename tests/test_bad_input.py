"Bad input on its whole way: files of every kind, tables of any system, a full disk, odd classes and batches."
import csv
import errno
import io
import os
import re
import shutil
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lessondl.data import BatchLoader, FileLoader, ImageData
from lessondl.datasets import write_root
from lessondl.interpret import Interpretation
from lessondl.submission import submission, submission_frame
from lessondl.transfer import make_head, vision_learner

ways = pytest.mark.parametrize('way', ['from_folder', 'from_csv'])
both = pytest.mark.parametrize('in_memory', [True, False], ids=['in memory', 'streamed'])
pairs = pytest.mark.parametrize('way, in_memory', [('from_folder', True), ('from_csv', False)])
unit = (0.,) * 3, (1.,) * 3
def refuses(says, error=ValueError): return pytest.raises(error, match=says)
def batches(loader): return [torch.cat(t) for t in zip(*loader)]


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    "Nothing is written into the course's own folders."
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    monkeypatch.setenv('LESSONDL_DATA', str(tmp_path_factory.mktemp('data')))


def file(picture, kind='PNG', **how):
    "The bytes of a picture file."
    f = io.BytesIO()
    picture.save(f, kind, **how)
    return f.getvalue()


def noise(size, seed=0, kind='PNG'):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return file(Image.fromarray(pixels), kind)


def load(path, way, files, **settings):
    "Data of {(split, class, name): bytes} in `path`, whose names differ; 'test' has no labels."
    held = [name for split, _, name in files if split == 'valid']
    rows = [(name, label) for split, label, name in files if split != 'test']
    for (split, label, name), content in files.items():
        folder = 'test' if split == 'test' else 'all' if way == 'from_csv' else f'{split}/{label}'
        (path / folder).mkdir(parents=True, exist_ok=True)
        (path / folder / name).write_bytes(content)
    if (path / 'test').exists(): settings['test'] = 'test'
    if way == 'from_folder': return ImageData.from_folder(path, **settings)
    with open(path / 'table.csv', 'w', newline='') as f: csv.writer(f).writerows([('name', 'label'), *rows])
    valid = [i for i, (name, _) in enumerate(rows) if name in held]
    return ImageData.from_csv(path, 'all', 'table.csv', valid_idxs=valid, sep=None, **settings)


# ---- every kind of file ----

def png16(w, h, colour):
    "A PNG of one colour with 16 bits a channel, which Pillow reads and cannot write."
    def part(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    pixels = (b'\0' + struct.pack('>3H', *colour) * w) * h
    return (b'\x89PNG\r\n\x1a\n' + part(b'IHDR', struct.pack('>2I5B', w, h, 16, 2, 0, 0, 0))
            + part(b'IDAT', zlib.compress(pixels)) + part(b'IEND', b''))


def plain(mode, colour, size=(9, 7), kind='PNG'): return file(Image.new(mode, size, colour), kind)


grey16 = np.full((7, 9), 0x64F0, np.uint16)
palette = Image.new('P', (9, 7), 1)
palette.putpalette([9, 9, 9, 10, 20, 30] + [0] * 750)
good = {     # name: content, colour, how far a value may be off
    'point.png': (plain('RGB', (1, 2, 3), (1, 1)), (1, 2, 3), 0),
    'point.jpg': (plain('RGB', (200, 100, 50), (1, 1), 'JPEG'), (200, 100, 50), 3),
    'line.png': (plain('RGB', (1, 2, 3), (1, 40)), (1, 2, 3), 0),
    'grey.png': (plain('L', 100), (100,) * 3, 0),
    'grey.jpg': (plain('L', 100, kind='JPEG'), (100,) * 3, 1),
    'bit.png': (plain('1', 1), (255,) * 3, 0),
    'cmyk.jpg': (plain('CMYK', (0, 0, 50, 0), kind='JPEG'), (255, 255, 205), 3),
    'cmyk.tif': (plain('CMYK', (0, 255, 255, 0), kind='TIFF'), (255, 0, 0), 0),
    'opaque.png': (plain('RGBA', (200, 0, 0, 255)), (200, 0, 0), 0),
    'half.png': (plain('RGBA', (200, 0, 0, 128)), (227, 127, 127), 1),
    'clear.png': (plain('LA', (7, 0)), (255,) * 3, 0),
    'grey16.png': (file(Image.fromarray(grey16)), (0x64,) * 3, 0),
    'grey16.tif': (file(Image.fromarray(grey16), 'TIFF'), (0x64,) * 3, 0),
    'colour16.png': (png16(9, 7, (0x0AFF, 0x6400, 0xC880)), (0x0A, 0x64, 0xC8), 0),
    'palette.png': (file(palette), (10, 20, 30), 0),
    'palette.gif': (file(palette, 'GIF'), (10, 20, 30), 0),
    'hole.gif': (file(palette, 'GIF', transparency=1), (255,) * 3, 0),
}


@both
@ways
@pytest.mark.parametrize('name', good)
def test_a_picture_of_any_kind_comes_as_its_colours(tmp_path, way, name, in_memory):
    content, colour, off = good[name]
    size = Image.open(io.BytesIO(content)).size
    other = plain('RGB', (40, 50, 60), size)
    files = {(split, label, f'{split}-{label}-{name}' if label == 'a' else f'{split}.png'):
             content if label == 'a' else other for split in ('train', 'valid', 'test') for label in 'ab'}
    for side in (None, 16):
        data = load(tmp_path, way, files, size=side, in_memory=in_memory, stats=unit)
        assert type(data.train) is (BatchLoader if in_memory else FileLoader) and data.classes == ['a', 'b']
        for loader in (data.train, data.valid, data.test):
            x, y = batches(loader)
            assert x.shape == (2, 3, *((side, side) if side else size[::-1])) and x.dtype == torch.float32
            order = y.tolist() if loader is not data.test else [int(n == 'test.png') for n in loader.names]
            assert sorted(order) == [0, 1]
            for picture, is_b in zip(x * 255, order):
                want = torch.tensor((40, 50, 60) if is_b else colour).view(3, 1, 1)
                assert (picture - want).abs().max() <= (0 if is_b else off) + 1e-3


whole = {kind: noise((32, 48), kind=kind) for kind in ('JPEG', 'PNG', 'GIF', 'BMP')}
float_tif = file(Image.fromarray(np.ones((32, 48), np.float32)), 'TIFF')
bad = {      # name: content, what the error says after the name
    'float.tif': (float_tif, 'decimal numbers'),
    'cut.jpg': (whole['JPEG'][:len(whole['JPEG']) // 2], 'truncated'),
    'last-byte.jpg': (whole['JPEG'][:-1], 'truncated'),
    'cut.png': (whole['PNG'][:len(whole['PNG']) // 2], ''),
    'cut.gif': (whole['GIF'][:len(whole['GIF']) // 2], ''),
    'cut.bmp': (whole['BMP'][:len(whole['BMP']) // 2], ''),
    'head.jpg': (whole['JPEG'][:20], ''),
    'empty.jpg': (b'', 'cannot identify'),
    'text.jpg': (b'once upon a time', 'cannot identify'),
    'page.png': (b'<!DOCTYPE html><html><body>404 Not Found</body></html>', 'cannot identify'),
}


@both
@ways
@pytest.mark.parametrize('split', ['train', 'valid', 'test'])
@pytest.mark.parametrize('name', bad)
def test_a_file_that_is_no_whole_picture_is_named(tmp_path, way, name, split, in_memory):
    content, says = bad[name]
    files = {(s, label, f'{s}-{label}.png'): whole['PNG']
             for s in ('train', 'valid', 'test') for label in 'ab'}
    files[split, 'a', name] = content
    with refuses(f'{re.escape(name)} is not a picture that can be read .*{says}.*Get the file again'):
        data = load(tmp_path, way, files, size=16, in_memory=in_memory)
        batches(getattr(data, split))             # streamed, a body that is broken is seen when it is read
    where = {'test': 'test'}.get(split, 'all' if way == 'from_csv' else f'{split}/a')
    assert (tmp_path / where / name).read_bytes() == content
    (tmp_path / where / name).unlink()
    del files[split, 'a', name]                   # what the error advises is a cure
    assert len(batches(load(tmp_path, way, files, size=16, in_memory=in_memory).train)[1]) == 2


@both
def test_a_missing_file_is_named_with_its_line(tmp_path, in_memory):
    table = 'name,label\n"a",x\n\n"b",y\nnot there,x\n"c",y\n'
    (tmp_path / 'all').mkdir()
    for name in 'abc': (tmp_path / 'all' / f'{name}.png').write_bytes(whole['PNG'])
    (tmp_path / 'all' / 'not there').mkdir()
    (tmp_path / 'all' / 'not there.png').mkdir()                       # a folder is no file
    (tmp_path / 't.csv').write_text(table)
    def read(): return ImageData.from_csv(tmp_path, 'all', 't.csv', '.png', size=16, in_memory=in_memory)
    with refuses(r't\.csv, line 5: there is no file .*not there\.png \(1 such\).*take the line away',
                 FileNotFoundError): read()
    (tmp_path / 'all' / 'not there.png').rmdir()
    with suppress(OSError):                                            # nor is a dead link, where links exist
        (tmp_path / 'all' / 'not there.png').symlink_to(tmp_path / 'nowhere.png')
    with refuses(r't\.csv, line 5: there is no file', FileNotFoundError): read()
    (tmp_path / 't.csv').write_text(table.replace('not there,x\n', ''))
    data = read()
    assert sorted(data.train.names + data.valid.names) == ['a.png', 'b.png', 'c.png']


@ways
def test_a_file_that_vanishes_is_named_and_the_rest_can_be_read(tmp_path, way):
    files = {(s, label, f'{s}-{label}.png'): whole['PNG'] for s in ('train', 'valid') for label in 'ab'}
    data = load(tmp_path, way, files, size=16, in_memory=False)
    data.valid.files[1].unlink()
    with refuses('valid-b.png', FileNotFoundError): batches(data.valid)
    assert len(batches(data.train)[1]) == 2


# ---- tables ----

kinds = pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'], ids=['plain', 'BOM'])
ends = pytest.mark.parametrize('end', ['\n', '\r\n', '\r'], ids=['LF', 'CRLF', 'CR'])


def table(path, lines, encoding, end):
    "A table of these lines, and the five pictures p0 to p4 that it is about."
    (path / 'all').mkdir()
    for i in range(5): (path / 'all' / f'p{i}.png').write_bytes(plain('RGB', (50 * i, 0, 0)))
    (path / 't.csv').write_bytes(end.join([*lines, '']).encode(encoding))


def from_table(path, **settings):
    return ImageData.from_csv(path, 'all', 't.csv', '.png', valid_idxs=[1, 3], stats=unit, **settings)


@both
@ends
@kinds
@pytest.mark.parametrize('columns', [None, ('file', 'kind')], ids=['as they stand', 'by name'])
def test_a_table_from_any_system_gives_the_same_data(tmp_path, encoding, end, columns, in_memory):
    lines = ['file,kind', 'p0,Käfer', 'p1,Ähre', '"p2","Käfer"', 'p3 , Käfer', 'p4,Ähre']
    table(tmp_path, lines, encoding, end)
    data = from_table(tmp_path, columns=columns, in_memory=in_memory)
    assert data.classes == ['Käfer', 'Ähre'] and not data.multi
    x, y = batches(data.train)
    red = (x[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(zip(red, y.tolist())) == [(0, 0), (100, 0), (200, 1)]
    assert data.valid.names == ['p1.png', 'p3.png'] and data.valid.y.tolist() == [1, 0]


@ends
@kinds
def test_many_labels_from_any_system_have_clean_names(tmp_path, encoding, end, capsys):
    table(tmp_path, ['tags,file', 'sea  sand,p0', 'sand,p1', ' sea,p2', 'sky sea sand,p3', 'sky,p4'],
          encoding, end)
    data = from_table(tmp_path, columns=('file', 'tags'))
    assert data.multi and data.classes == ['sand', 'sea', 'sky']
    assert data.valid.y.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert '1.6 on average, of 3 classes' in capsys.readouterr().out


@ends
@kinds
@pytest.mark.parametrize('line, settings, says', [
    ('p1,x', {}, "line 4: 'p1' stands in line 3 already: keep one"),
    ('p1,y', {}, "line 4: 'p1' stands in line 3 already: keep one"),
    ('p2,', {}, "line 4: 'p2' has no label: write one, or take the line away"),
    ('p2,""', {}, "line 4: 'p2' has no label"),
    ('p2, ', dict(columns=('file', 'kind')), "line 4: 'p2' has no label"),
    ('p2,| |', dict(sep='|'), r"line 4: 'p2' has no label, only '\| \|'"),
    (',x', {}, 'line 4: no name'),
    ('p2', {}, r'line 4: expected 2 columns .* got 1'),
    ('p2,x,', {}, r'line 4: expected 2 columns .* got 3'),
    ('p9,x', {}, r"line 4: there is no file .*p9\.png \(1 such\)"),
    ('p2,x', dict(columns=('file', 'tags')), r"line 1: no column 'tags', there are \['file', 'kind'\]"),
    ('p2,x', dict(columns=('File', 'kind')), r"line 1: no column 'File', there are \['file', 'kind'\]"),
], ids=['twice', 'twice, another label', 'no label', 'a quoted nothing', 'a space', 'separators alone',
        'no name', 'one column', 'three columns', 'no file', 'no such column', 'a column in capitals'])
def test_a_line_that_does_not_fit_is_named(tmp_path, encoding, end, line, settings, says):
    table(tmp_path, ['file,kind', 'p0,x', 'p1,x', line, 'p3,y', 'p4,y'], encoding, end)
    with refuses(rf't\.csv, {says}', (ValueError, FileNotFoundError)): from_table(tmp_path, **settings)


# ---- smaller copies: a full disk, and files that lie elsewhere ----

def contents(*folders):
    "Every file below the folders; locks stay, and hold nothing."
    return {f: f.read_bytes() for folder in folders for f in folder.rglob('*')
            if f.is_file() and f.suffix != '.lock'}


def fill_disk(patch, writes):
    "After so many writes of a resized copy there is no room: the next write leaves half a file and an error."
    left = [writes]
    def full(write, target):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] >= 0: return write(*args, **kwargs)
            Path(args[target]).write_bytes(b'half')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))         # as Pillow's on /dev/full
        return wrapped
    patch.setattr(Image.Image, 'save', full(Image.Image.save, 1))
    patch.setattr(shutil, 'copyfile', full(shutil.copyfile, 1))
    patch.setattr(Path, 'write_text', full(Path.write_text, 0))


full_disks = pytest.mark.parametrize('side, writes', [(60, 2), (18, 2), (60, 6)],
                                     ids=['a copy made smaller', 'a copy as it is', 'the mark of a whole'])


def six_pictures(path, way, side):
    files = {(split, label, f'{split}-{label}-{i}.jpg'): noise((side, side + 4), i, 'JPEG')
             for split, n in (('train', 2), ('valid', 1)) for label in 'ab' for i in range(n)}
    return load(path, way, files, size=8, in_memory=False)


@ways
@full_disks
def test_a_full_disk_costs_neither_pictures_nor_older_copies(tmp_path, way, side, writes, monkeypatch):
    data = six_pictures(tmp_path, way, side)
    old, before = data.resize(20), contents(tmp_path, write_root())
    x = batches(data.valid)[0]
    with monkeypatch.context() as patch:
        fill_disk(patch, writes)
        with pytest.raises(OSError) as e: data.resize(24)
    assert e.value.errno == errno.ENOSPC or 'No space left' in str(e.value)
    assert contents(tmp_path, write_root()) == before             # nothing lost, nothing half
    assert torch.equal(batches(data.valid)[0], x) and data.resize(20).path == old.path
    new = data.resize(24)                                         # there is room again
    assert new.path != old.path and len(contents(new.path)) == 6 + 1
    assert batches(new.valid)[0].isfinite().all() and len(new.train.names) == 4


@full_disks
def test_a_full_disk_is_told_with_the_folder_and_a_cure(tmp_path, side, writes, monkeypatch):
    data = six_pictures(tmp_path / 'mine', 'from_folder', side)
    fill_disk(monkeypatch, writes)
    with pytest.raises(OSError) as e: data.resize(24, tmp_path / 'small')
    text = str(e.value)
    assert str(tmp_path / 'small') in text and 'No space left' in text and 'room' in text


@pytest.mark.parametrize('own', [True, False], ids=['a folder of ones own', 'the default folder'])
def test_smaller_copies_never_replace_originals_beside_the_table(tmp_path, own):
    "`folder` of `from_csv` may be '../pictures': the copies must not take that way out of theirs"
    root = tmp_path if own else write_root()
    for name in ('pictures', 'tables'): (root / name).mkdir(parents=True)
    for i in range(4): (root / 'pictures' / f'{i}.jpg').write_bytes(noise((60, 64), i, 'JPEG'))
    (root / 'tables' / 't.csv').write_text('name,label\n0,a\n1,b\n2,a\n3,b\n')
    data = ImageData.from_csv(root / 'tables', '../pictures', 't.csv', '.jpg', size=8)
    before = contents(root)
    with pytest.raises(ValueError, match='does not lie below.*both table and pictures'):
        data.resize(16, root / 'small' if own else None)
    assert contents(root) == before


def test_two_pictures_whose_copies_would_be_one_are_refused(tmp_path):
    files = {('train', 'a', 'x.png'): plain('RGB', 'red', (60, 60)),
             ('train', 'a', 'x.png.jpg'): plain('RGB', 'blue', (60, 60), 'JPEG'),
             ('valid', 'a', 'y.png'): plain('RGB', 'red', (60, 60))}
    data = load(tmp_path, 'from_folder', files, size=8)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match='two pictures would both be called .*x.png.jpg'):
        data.resize(16, tmp_path / 'small')
    assert contents(tmp_path) == before


# ---- odd classes and odd numbers of pictures, up to a trained net ----

def pictures(counts, size=32):
    "{split: {class: number of pictures}} as `load` takes them"
    return {(split, label, f'{split}{k}-{i}.png'): noise((size, size), 100 * k + i)
            for split, labels in counts.items()
            for k, (label, n) in enumerate(labels.items()) for i in range(n)}


def learner(data, path, **settings):
    torch.manual_seed(0)
    return vision_learner(data, path=path / 'models', progress=False, precision='fp32', **settings)


@pairs
def test_a_last_batch_of_one_is_told_with_both_cures(tmp_path, way, in_memory):
    files = pictures({'train': {'a': 9, 'b': 8}, 'valid': {'a': 9, 'b': 8}})
    data = load(tmp_path, way, files, bs=16, in_memory=in_memory)
    learn = learner(data, tmp_path)
    told = 'batch 1 holds one example, and batch norm .*another batch size.*drop_last=True'
    with refuses(told): learn.fit_one_cycle(1, 1e-3)
    learn.precompute = True
    with refuses(told): learn.fit(1e-3, 1)
    learn.precompute = False
    learn.unfreeze()
    with refuses(told): learn.fit(1e-3, 1)
    probs, y = learn.get_preds('valid')           # 17 as well: evaluating takes a batch of one
    assert probs.shape == (17, 2) and probs.isfinite().all() and y.tolist() == [0] * 9 + [1] * 8
    for cure, steps in ((data.replace(bs=15), 2), (load(tmp_path, way, files, bs=16, drop_last=True), 1)):
        learn.set_data(cure)                      # the same learner goes on
        learn.fit(1e-3, 1)
        assert len(cure.train) == steps and np.isfinite(learn.recorder.epochs[-1]['valid_loss'])


def test_a_rate_sought_with_a_last_batch_of_one_is_told_and_changes_nothing(tmp_path):
    files = pictures({'train': {'a': 9, 'b': 8}, 'valid': {'a': 1, 'b': 1}})
    learn = learner(load(tmp_path, 'from_folder', files, bs=16), tmp_path)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with refuses('batch 1 holds one example'): learn.lr_find(n=20)
    assert all(torch.equal(before[k], w) for k, w in learn.model.state_dict().items())


def test_a_single_picture_to_learn_from_is_told_and_predicted(tmp_path):
    data = load(tmp_path, 'from_folder', pictures({'train': {'a': 1}, 'valid': {'a': 1}}))
    learn = learner(data, tmp_path)
    with refuses('batch 0 holds one example'): learn.fit(1e-3, 1)
    assert learn.predict(data.valid.files[0])[0] == 'a'


@pairs
def test_a_class_with_one_picture_is_learnt(tmp_path, way, in_memory):
    counts = {'train': {'a': 4, 'b': 4, 'lone': 1}, 'valid': {'a': 2, 'b': 1}}
    data = load(tmp_path, way, pictures(counts), bs=3, in_memory=in_memory)
    assert data.classes == ['a', 'b', 'lone'] and data.train.y.bincount().tolist() == [4, 4, 1]
    assert data.train.names.count('train2-0.png') == 1
    learn = learner(data, tmp_path, ps=0.)
    learn.precompute = True
    learn.fit(3e-3, 6)
    assert learn.predict(next(f for f in data.train.files if f.name == 'train2-0.png'))[0] == 'lone'
    seen = Interpretation(learn)                                  # validation has none of it
    shares = seen.confusion_matrix(normalize=True)
    assert shares.shape == (3, 3) and not shares.isnan().any() and seen.confusion_matrix().sum() == 3
    assert torch.allclose(shares.sum(1), torch.tensor([1., 1., 0.]))


@ways
def test_a_class_whose_one_picture_is_in_validation_is_told_or_refused(tmp_path, way, capsys):
    files = pictures({'train': {'a': 4, 'b': 4}, 'valid': {'a': 1, 'b': 1, 'lone': 1}})
    if way == 'from_folder':
        with refuses(r"valid has the classes \['lone'\], which training has not"): load(tmp_path, way, files)
    else:
        data = load(tmp_path, way, files, bs=4)
        assert "valid has the classes ['lone'], which training has not" in capsys.readouterr().out
        learn = learner(data, tmp_path)
        learn.fit(1e-3, 1)
        assert learn.get_preds()[0].shape == (3, 3)


@pytest.mark.parametrize('outputs', [1, 3])
def test_a_head_with_another_number_of_outputs_than_classes_is_told(tmp_path, outputs):
    files = pictures({'train': {'a': 2, 'b': 2}, 'valid': {'a': 1, 'b': 1}})
    learn = learner(load(tmp_path, 'from_folder', files), tmp_path,
                    custom_head=make_head(256, outputs))
    with refuses(rf'gives \[4, {outputs}\] .*\[4, 2\] was expected.*Give the last layer 2 outputs'):
        learn.fit(1e-3, 1)


@ways
def test_classes_and_files_named_like_formulas_come_as_text_into_a_submission(tmp_path, way):
    files = pictures({'train': {'=1+1': 2, '@b': 2, 'c': 2}, 'valid': {'=1+1': 1, '@b': 1}})
    files |= {('test', '', name): noise((32, 32), 50 + i) for i, name in enumerate(['+1-2.png', '7.png'])}
    learn = learner(load(tmp_path, way, files, bs=3), tmp_path)
    assert learn.data.classes == ['=1+1', '@b', 'c']
    learn.fit(1e-3, 1)
    path = tmp_path / 's.csv'
    with refuses(r"the id '\+1-2' would be a formula .*formulas='prefix'"): submission(learn, path=path)
    with refuses("the column '=1\\+1' would be a formula .*formulas='prefix'"):
        submission(learn, ['x', 'y'], path=path)
    assert not path.exists()
    with open(submission(learn, path=path, formulas='prefix'), newline='') as f: rows = list(csv.reader(f))
    assert rows[0] == ['id', "'=1+1", "'@b", 'c'] and [r[0] for r in rows[1:]] == ["'+1-2", '7']
    written = torch.tensor([[float(v) for v in r[1:]] for r in rows[1:]])
    assert torch.equal(written, learn.get_preds('test')[0])
    with open(submission(learn, path=path, formulas='keep'), newline='') as f:
        assert next(csv.reader(f)) == ['id', '=1+1', '@b', 'c']
    pytest.importorskip('pandas')
    assert list(submission_frame(learn, formulas='prefix')) == ['id', "'=1+1", "'@b", 'c']
