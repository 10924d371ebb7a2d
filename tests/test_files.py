"Pictures from folders and tables, in memory or streamed: sizes, names, many labels, caches, and bad input."
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lessondl import data as files_module
from lessondl import datasets
from lessondl.data import (
    BatchLoader,
    FileLoader,
    ImageData,
    PictureFiles,
    PictureStore,
    channel_stats,
    free_memory,
    list_folder,
    list_pictures,
    open_picture,
    open_pictures,
    parse_labels,
    picture_sizes,
    read_table,
    resized_key,
    split_rows,
    valid_idxs,
)

settings.register_profile('lessons', deadline=None, max_examples=30)
settings.load_profile('lessons')
def refuses(says, error=ValueError): return pytest.raises(error, match=says)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    "Nothing is written into the course's own folders."
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    monkeypatch.setenv('LESSONDL_DATA', str(tmp_path_factory.mktemp('data')))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ('train', 'valid', 'test'):
        for name in ('cat', 'dog'):
            for i in range(3):
                size = (40, 30) if i else (16, 16)
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                write(tmp_path / split / name / f'{i}.png', Image.fromarray(pixels))
    (tmp_path / 'train' / '.ipynb_checkpoints').mkdir()
    (tmp_path / 'train' / 'cat' / '.DS_Store').write_text('x')
    (tmp_path / 'train' / 'cat' / '._0.png').write_text('x')
    (tmp_path / 'train' / 'notes.txt').write_text('x')
    return tmp_path


def table(path, rows, header=('name', 'label'), encoding='utf-8', end='\n'):
    with open(path, 'w', encoding=encoding, newline='') as f:
        csv.writer(f, lineterminator=end).writerows([header, *rows])


@pytest.fixture
def tagged(tmp_path):
    "Ten pictures in one folder, a table with one label each, and two pictures to be tested on."
    for i in range(10): write(tmp_path / 'all' / f'p{i}.jpg', Image.new('RGB', (30 + i, 40), (25*i, 0, 0)))
    for i in range(2): write(tmp_path / 'later' / f'q{i}.jpg', Image.new('RGB', (30, 30)))
    table(tmp_path / 'labels.csv', [(f'p{i}', 'even' if i % 2 == 0 else 'odd') for i in range(10)])
    return tmp_path


def batches(loader): return [torch.cat(t) for t in zip(*loader)]


# --- folders

def test_from_folder(folder):
    data = ImageData.from_folder(folder, test='test', size=16, aug='side-on', bs=4)
    assert data.classes == ['cat', 'dog'] and data.c == 2 and data.size == 16 and data.multi is False
    assert data.train.x.shape == (6, 16, 16, 3) and data.train.x.dtype == np.uint8
    assert torch.cat([y for _, y in data.valid]).tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(data.valid.x[0], np.asarray(Image.open(folder / 'valid/cat/0.png')))
    assert data.test.y.tolist() == [0, 0, 0, 1, 1, 1] and data.path == folder
    assert data.test.names == ['0.png', '1.png', '2.png']*2
    assert data.test.files[5] == folder / 'test' / 'dog' / '2.png'
    assert np.array_equal(data.test.picture(5), open_picture(data.test.files[5], 16))


def test_a_test_folder_of_pictures_alone(folder):
    for f in (folder / 'valid' / 'cat').iterdir(): write(folder / 'alone' / f.name, Image.open(f))
    for in_memory in (True, False):
        data = ImageData.from_folder(folder, test='alone', size=16, in_memory=in_memory)
        x, y = batches(data.test)
        assert y.tolist() == [-1] * 3 and y.dtype == torch.int64 and x.shape == (3, 3, 16, 16)
        assert data.test.names == ['0.png', '1.png', '2.png']


def test_sizes_that_differ_need_a_size(folder):
    for in_memory in (True, False):
        with refuses('1.png is 30 wide and 40 high.*give size'):
            ImageData.from_folder(folder, in_memory=in_memory)
    for size in (0, -1, 1.5, '64'):
        with refuses('size is the side in pixels'): ImageData.from_folder(folder, size=size)


@pytest.mark.parametrize('in_memory', [True, False])
def test_text_named_jpg_and_a_picture_cut_short(folder, in_memory):
    whole = folder / 'train' / 'dog' / '9.jpg'
    write(whole, Image.effect_noise((64, 64), 90))
    files = {'text.jpg': b'once upon a time', 'empty.png': b'', 'cut.jpg': whole.read_bytes()[:1500]}
    for name, content in files.items():
        bad = folder / 'train' / 'dog' / name
        bad.write_bytes(content)
        with refuses(f'{name} is not a picture that can be read.*delete it'):
            batches(ImageData.from_folder(folder, size=16, in_memory=in_memory).train)
        bad.unlink()
    threads = threading.active_count()
    assert threads < 20, f'{threads} threads: those of the broken epochs are still there'


def test_a_file_that_vanishes_between_epochs_is_named(folder):
    data = ImageData.from_folder(folder, size=16, in_memory=False)
    batches(data.train)
    (folder / 'train' / 'cat' / '2.png').unlink()
    with pytest.raises(FileNotFoundError, match='2.png'): batches(data.train)


@pytest.mark.filterwarnings('ignore:a picture of 16 bits')          # one of them is meant to be dark
@pytest.mark.parametrize('name, picture, colour', [
    ('grey.png', Image.new('L', (9, 7), 100), (100,) * 3), ('bit.png', Image.new('1', (9, 7), 1), (255,) * 3),
    ('grey16.png', Image.fromarray(np.full((7, 9), 0x6400, np.uint16)), (0x64,) * 3),
    ('dark16.png', Image.fromarray(np.full((7, 9), 200, np.uint16)), (0,) * 3),
    ('int32.tif', Image.fromarray(np.full((7, 9), 0x6400, np.int32)), (0x64,) * 3),
    ('byte32.tif', Image.fromarray(np.full((7, 9), 0xfe, np.int32)), (0xfe,) * 3),
    ('rgba.png', Image.new('RGBA', (9, 7), (200, 0, 0, 255)), (200, 0, 0)),
    ('clear.png', Image.new('RGBA', (9, 7), (200, 0, 0, 0)), (255,) * 3),
    ('half.png', Image.new('LA', (9, 7), (0, 128)), (127,) * 3),
    ('palette.png', Image.new('RGB', (9, 7), (10, 20, 30)).quantize(4), (10, 20, 30)),
    ('cmyk.tif', Image.new('CMYK', (9, 7), (0, 255, 255, 0)), (255, 0, 0)),
    ('point.png', Image.new('RGB', (1, 1), (1, 2, 3)), (1, 2, 3))])
def test_every_kind_of_picture(tmp_path, name, picture, colour):
    write(tmp_path / name, picture)
    assert picture_sizes(tmp_path).tolist() == [list(picture.size)]
    for size in (None, 16):
        got = open_picture(tmp_path / name, size)
        assert got.dtype == np.uint8 and got.shape == ((size, size, 3) if size else (*picture.size[::-1], 3))
        assert np.unique(got.reshape(-1, 3), axis=0).tolist() == [list(colour)]


@pytest.mark.parametrize('kind, name', [(np.uint16, 'a.png'), (np.uint16, 'a.tif'), (np.int32, 'a.tif')])
def test_a_scan_of_12_bits_is_dark_and_warns(tmp_path, kind, name):
    for white, want, warned in ((4095, 15, 1), (4095 * 16, 255, 0), (0, 0, 0)):
        write(tmp_path / name, Image.fromarray(np.full((7, 9), white, kind)))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            assert (open_picture(tmp_path / name) == want).all()
        assert ['multiply it by 16' in str(w.message) for w in told] == [True] * warned


def test_transparent_palette(tmp_path):
    picture = Image.new('P', (4, 4), 0); picture.putpalette([9, 9, 9] * 256)
    picture.save(tmp_path / 'p.png', transparency=0)
    assert (open_picture(tmp_path / 'p.png') == 255).all()


def test_the_cameras_turn_is_applied(tmp_path):
    picture = Image.new('RGB', (20, 10)); exif = picture.getexif(); exif[0x0112] = 6
    picture.save(tmp_path / 'phone.jpg', exif=exif)
    assert open_picture(tmp_path / 'phone.jpg').shape == (20, 10, 3)
    assert picture_sizes(tmp_path).tolist() == [[10, 20]]


@pytest.mark.parametrize('how', [{}, dict(subsampling=0), dict(progressive=True), dict(quality=20)], ids=str)
@pytest.mark.parametrize('size', [None, 24, 70])
def test_torchvision_and_pillow_decode_to_the_same_numbers(tmp_path, monkeypatch, how, size):
    io = pytest.importorskip('torchvision.io')
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((61, 47), Image.Resampling.BICUBIC)
    picture.save(tmp_path / 'a.jpg', **how)
    decoded, decode = [], io.decode_jpeg
    monkeypatch.setattr(io, 'decode_jpeg', lambda b: decoded.append(1) or decode(b))
    quick = open_picture(tmp_path / 'a.jpg', size)
    assert decoded and quick.flags.writeable
    monkeypatch.setattr(io, 'decode_jpeg', lambda b: 1 / 0)        # as a build without it: Pillow reads
    assert np.array_equal(open_picture(tmp_path / 'a.jpg', size), quick)
    monkeypatch.delitem(sys.modules, 'torchvision.io')
    assert np.array_equal(open_picture(tmp_path / 'a.jpg', size), quick)


def test_what_torchvision_would_read_otherwise_is_left_to_pillow(tmp_path):
    pytest.importorskip('torchvision.io')
    for mode, want in (('L', (50, 50, 50)), ('CMYK', (255, 255, 205))):
        Image.new(mode, (20, 10), 50 if mode == 'L' else (0, 0, 50, 0)).save(tmp_path / 'a.jpg')
        assert np.abs(open_picture(tmp_path / 'a.jpg').reshape(-1, 3).astype(int) - want).max() < 3
    picture = Image.new('RGB', (20, 10)); exif = picture.getexif(); exif[0x0112] = 6
    picture.save(tmp_path / 'a.jpg', exif=exif)
    assert open_picture(tmp_path / 'a.jpg').shape == (20, 10, 3)
    (tmp_path / 'a.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:-200])
    with refuses('a.jpg is not a picture that can be read .*[Tt]runcated'): open_picture(tmp_path / 'a.jpg')


def test_resizing_is_that_of_pillow_but_for_rounding(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    write(tmp_path / 'a.png', Image.fromarray(pixels))
    for size in (20, 60, 150):
        want = Image.fromarray(pixels[:, 12:87]).resize((size, size), Image.Resampling.BILINEAR)
        assert np.abs(open_picture(tmp_path / 'a.png', size).astype(int) - np.asarray(want)).max() <= 2


def test_floats_in_a_picture_are_refused(tmp_path):
    write(tmp_path / 'f.tif', Image.fromarray(np.ones((4, 4), np.float32)))
    with refuses('decimal numbers'): open_picture(tmp_path / 'f.tif')
    with pytest.raises(FileNotFoundError): open_picture(tmp_path / 'none.png')


def test_a_big_jpeg_is_scaled_well(tmp_path):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    write(tmp_path / 'big.jpg', Image.fromarray(np.broadcast_to(ramp[None, :, None], (600, 800, 3)).copy()))
    got = open_picture(tmp_path / 'big.jpg', 32).astype(int)
    assert np.abs(got[16, :, 0] - np.linspace(35, 220, 32)).max() < 6      # the middle 600 of 800 columns


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_any_size_to_any_size(w, h, size):
    path = _scratch() / f'{w}x{h}.png'
    if not path.exists(): write(path, Image.new('RGB', (w, h), (7, 8, 9)))
    got = open_picture(path, size)
    assert got.shape == (size, size, 3) and (got == (7, 8, 9)).all()


def _scratch():
    if not hasattr(_scratch, 'path'): _scratch.path = Path(tempfile.mkdtemp())
    return _scratch.path


def test_folders_that_do_not_fit(folder, tmp_path_factory):
    with refuses(r"no folder .*holds the folders \['test', 'train', 'valid'\]", FileNotFoundError):
        ImageData.from_folder(folder, valid='val')
    with refuses('no folder', FileNotFoundError): ImageData.from_folder(folder / 'nowhere')
    with refuses('no folder', FileNotFoundError): ImageData.from_folder(folder, size=16, test='tset')
    (folder / 'bare').mkdir()
    with refuses('holds no pictures'): ImageData.from_folder(folder, size=16, test='bare')
    (folder / 'valid' / 'eel').mkdir()
    with refuses(r"\['eel'\], which training has not"): ImageData.from_folder(folder, size=16)
    with refuses(r"no pictures in the class folders \['eel'\]"):
        list_folder(folder / 'valid')
    empty = tmp_path_factory.mktemp('empty')
    with refuses('holds no class folders'): list_folder(empty)
    (empty / 'void').mkdir()
    with refuses('holds no class folders'): ImageData.from_folder(folder, train='train/cat')
    with refuses('no pictures'): list_folder(empty)


def test_a_class_with_one_picture(folder):
    write(folder / 'train' / 'eel' / 'only.png', Image.new('RGB', (20, 20)))
    data = ImageData.from_folder(folder, size=16)
    assert data.classes == ['cat', 'dog', 'eel'] and (data.train.y == 2).sum() == 1


def test_many_threads_keep_the_order(tmp_path):
    files = [tmp_path / f'{i:03}.png' for i in range(60)]
    for i, f in enumerate(files): write(f, Image.new('RGB', (3, 3), (i, i, i)))
    assert open_pictures(files, workers=8)[:, 0, 0, 0].tolist() == list(range(60))
    parts = [np.array([5, 3]), np.array([59]), np.arange(20)]
    got = PictureFiles(files, workers=8).read(parts)
    assert [x[:, 0, 0, 0].tolist() for x in got] == [p.tolist() for p in parts]


# --- in memory or streamed

@pytest.mark.parametrize('settings', [
    dict(), dict(aug='side-on', max_zoom=1.2, seed=3), dict(drop_last=True)])
def test_streamed_and_in_memory_are_the_same_batches(folder, settings):
    one, two = (ImageData.from_folder(folder, test='test', size=24, bs=4, in_memory=m, **settings)
                for m in (True, False))
    assert type(one.train) is BatchLoader and type(two.train) is FileLoader and one.stats == two.stats
    for split in ('train', 'train', 'valid', 'test'):
        for (x, y), (x2, y2) in zip(getattr(one, split), getattr(two, split), strict=True):
            assert torch.equal(x, x2) and torch.equal(y, y2)
    for (x, _), (x2, _) in zip(one.augmented('test'), two.augmented('test'), strict=True):
        assert torch.equal(x, x2)
    assert len(one.train) == len(two.train) and one.train.names == two.train.names


def test_a_set_larger_than_its_sample_gives_the_same_batches_too(tagged, monkeypatch):
    plain = PictureStore.sample
    monkeypatch.setattr(PictureStore, 'sample', lambda self, n: plain(self, 3))
    one, two = (ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', size=16, bs=4, in_memory=m)
                for m in (True, False))
    assert type(one.train) is BatchLoader and type(two.train) is FileLoader and len(one.train.y) == 8
    third = channel_stats(one.train.x[[0, 3, 7]])
    assert one.stats == two.stats == third != channel_stats(one.train.x)
    for (x, y), (x2, y2) in zip(one.train, two.train, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_a_sample_takes_no_more_memory_than_it_may(tagged):
    store = PictureStore(list_pictures(tagged / 'all'), 16)
    one, sizes = 16*16*3, [(9, 1 << 27, 9), (99, 1 << 27, 10), (9, 5*16*16*3 + 1, 5), (9, 1, 1)]
    assert [len(store.sample(n, most)) for n, most, _ in sizes] == [want for *_, want in sizes]
    streamed = [store.sample(n) for n in range(1, 12)]
    store.load()
    assert all(np.array_equal(store.sample(n), x) for n, x in enumerate(streamed, 1))
    assert np.array_equal(store.sample(10), store.memory) and store.sample(3).nbytes == 3*one


@pytest.mark.parametrize('written, free', [
    ({}, None), (dict(max='max', current='500'), None), (dict(max='700'), None),
    (dict(max='', current=''), None),
    (dict(max='700', current='500'), 200), (dict(max='700', current='900'), 0),
    (dict(max='700', current='500', stat='file 90\ninactive_file 30\nactive_file 60'), 230),
    (dict(max=str(1 << 62), current='0'), None)])
def test_free_memory_is_that_of_the_container_where_it_has_less(tmp_path, written, free):
    for name, text in written.items(): (tmp_path / f'memory.{name}').write_text(text + '\n')
    got = free_memory(tmp_path)
    if free is None: assert 1 << 20 < got and abs(got - free_memory(tmp_path / 'none')) < 1 << 30
    else: assert got == free


def test_a_set_too_large_for_the_container_is_streamed(folder, monkeypatch):
    (folder / 'memory.current').write_text('1000000\n')
    plain = files_module.free_memory
    monkeypatch.setattr(files_module, 'free_memory', lambda: plain(folder))
    for more, kind in ((5*12*16*16*3, BatchLoader), (3*12*16*16*3, FileLoader)):
        (folder / 'memory.max').write_text(f'{1_000_000 + more}\n')
        assert type(ImageData.from_folder(folder, size=16).train) is kind


streaming = """
import sys, psutil
from lessondl.data import ImageData
def used(): return psutil.Process().memory_info().rss
def most(in_memory):
    unit = (0.,)*3, (1.,)*3
    data = ImageData.from_folder(sys.argv[1], size=512, bs=2, stats=unit, in_memory=in_memory)
    yield from (used() for _ in data.train)
start = next(most(False))                            # the first batch also brings in what each walk needs
print(max(most(False)) - start, max(most(True)) - start)
"""


def test_streaming_takes_the_memory_of_a_few_batches(tmp_path):
    pytest.importorskip('psutil')
    write(tmp_path / 'one.jpg', Image.new('RGB', (512, 512), (90, 120, 30)))
    for split, n in (('train', 96), ('valid', 2)):                             # 96 * 512**2 * 3: 72 MiB
        (tmp_path / split / 'a').mkdir(parents=True)
        for i in range(n): shutil.copyfile(tmp_path / 'one.jpg', tmp_path / split / 'a' / f'{i:03}.jpg')
    steady = {'MALLOC_MMAP_THRESHOLD_': '65536'}           # what is let go goes back to the system at once
    run = subprocess.run([sys.executable, '-c', streaming, tmp_path], capture_output=True, text=True,
                         env=os.environ | steady)
    assert run.returncode == 0, run.stderr
    streamed, held = (int(n) / 2**20 for n in run.stdout.split('\n')[-2].split())
    assert held > 64 and streamed < 18, f'streamed {streamed:.0f} MiB, in memory {held:.0f}'


def test_what_is_small_is_kept_in_memory(folder, monkeypatch):
    need = 12*16*16*3
    for free, kind in ((5*need, BatchLoader), (3*need, FileLoader)):
        monkeypatch.setattr(files_module, 'free_memory', lambda free=free: free)
        assert type(ImageData.from_folder(folder, size=16).train) is kind


def test_no_more_than_two_batches_ahead(tmp_path, monkeypatch):
    for i in range(40): write(tmp_path / 'a' / f'{i:02}.png', Image.new('RGB', (4, 4)))
    opened, plain = [], open_picture
    def counted(f, size=None): opened.append(f); return plain(f, size)
    monkeypatch.setattr(files_module, 'open_picture', counted)
    source, unit = PictureFiles(list_pictures(tmp_path), 4), ((0.,)*3, (1.,)*3)
    loader = FileLoader(source, np.zeros(40, int), 4, stats=unit)
    walk = iter(loader)
    for taken in range(1, 4):
        next(walk); time.sleep(.2)
        assert len(opened) == 4*(taken + 2)
    walk.close(); time.sleep(.2)
    assert len(opened) <= 20


def test_a_walk_broken_off_leaves_no_threads(folder):
    data = ImageData.from_folder(folder, size=16, bs=2, in_memory=False)
    before = threading.active_count()
    for _ in range(5):
        for _ in data.train: break
    time.sleep(.3)
    assert threading.active_count() <= before + 1


# --- tables

def test_from_csv(tagged):
    data = ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', test='later', size=16, bs=4)
    held = valid_idxs(10)
    assert data.classes == ['even', 'odd'] and data.multi is False and data.valid.y.dtype == torch.int64
    assert data.valid.names == [f'p{i}.jpg' for i in held] and data.valid.y.tolist() == [i % 2 for i in held]
    assert len(data.train.names) == 8 and not set(data.train.names) & set(data.valid.names)
    assert data.test.names == ['q0.jpg', 'q1.jpg'] and data.test.y.tolist() == [-1, -1]
    assert abs(int(data.valid.picture(0)[8, 8, 0]) - 25*held[0]) < 4
    data = ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', valid_idxs=[3, 1], size=16)
    assert data.valid.names == ['p3.jpg', 'p1.jpg']


@pytest.mark.parametrize('in_memory', [True, False])
def test_many_labels(tagged, capsys, in_memory):
    rows = [(f'p{i}', ' '.join(['all', *(['even'] if i % 2 == 0 else []), *(['big'] if i > 6 else [])]))
            for i in range(10)]
    table(tagged / 'tags.csv', rows, ('image_name', 'tags'))
    data = ImageData.from_csv(tagged, 'all', 'tags.csv', '.jpg', test='later', size=16, valid_idxs=[0, 7],
                              in_memory=in_memory)
    assert 'several labels a picture, 1.8 on average, of 3 classes' in capsys.readouterr().out
    assert data.multi and data.classes == ['all', 'big', 'even'] and data.c == 3
    x, y = batches(data.valid)
    assert y.dtype == torch.float32 and y.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert batches(data.test)[1].tolist() == [[-1.]*3]*2
    assert data.label(y[0]) == 'all\neven' and data.label(data.test.y[0]) == '?'
    axes = data.show_batch(3)
    assert all('all' in ax.get_title() for ax in axes)
    assert len(data.show_augmented(1, n=4)) == 4
    import matplotlib.pyplot as plt
    plt.close('all')


def test_names_with_spaces(tagged, capsys):
    table(tagged / 'dogs.csv', [(f'p{i}', 'golden retriever' if i % 2 else 'pug') for i in range(10)])
    data = ImageData.from_csv(tagged, 'all', 'dogs.csv', '.jpg', sep=None, size=16)
    assert data.classes == ['golden retriever', 'pug'] and not data.multi and capsys.readouterr().out == ''
    data = ImageData.from_csv(tagged, 'all', 'dogs.csv', '.jpg', size=16)
    assert data.multi and 'sep=None' in capsys.readouterr().out
    table(tagged / 'dogs.csv', [(f'p{i}', 'golden retriever|dog' if i % 2 else 'pug|dog') for i in range(10)])
    data = ImageData.from_csv(tagged, 'all', 'dogs.csv', '.jpg', sep='|', size=16)
    assert data.classes == ['dog', 'golden retriever', 'pug']


def test_the_layout_of_dog_breeds(tmp_path, capsys):
    breeds = ['boston_bull', 'dingo', 'german_short-haired_pointer']
    def ids(seed, n): return [g.bytes(16).hex() for g in [np.random.default_rng(seed)] for _ in range(n)]
    known, later = ids(0, 15), ids(1, 4)
    for split, names in (('train', known), ('test', later)):
        for i, name in enumerate(names):
            write(tmp_path / split / f'{name}.jpg', Image.new('RGB', (50 + i, 37), (60*(i % 3), 0, 0)))
    table(tmp_path / 'labels.csv', [(name, breeds[i % 3]) for i, name in enumerate(known)], ('id', 'breed'))
    data = ImageData.from_csv(tmp_path, 'train', 'labels.csv', suffix='.jpg', test='test', size=224, bs=4)
    assert data.classes == breeds and data.multi is False and capsys.readouterr().out == ''
    assert sorted(data.train.names + data.valid.names) == sorted(f'{name}.jpg' for name in known)
    for loader in (data.train, data.valid):
        assert [known.index(name[:-4]) % 3 for name in loader.names] == loader.y.tolist()
    assert sorted(data.test.names) == sorted(f'{name}.jpg' for name in later)
    assert data.one_batch()[0].shape == (4, 3, 224, 224) and (data.test.y == -1).all()
    for i, name in enumerate(data.test.names):
        assert abs(int(data.test.picture(i)[0, 0, 0]) - 60*(later.index(name[:-4]) % 3)) < 4


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_every_form_of_table(tmp_path, encoding, end):
    rows = [('ä 1', 'Käse, alt'), ('b', 'two "words"')]
    table(tmp_path / 't.csv', rows, encoding=encoding, end=end)
    header, got = read_table(tmp_path / 't.csv')
    assert header == ['name', 'label'] and [r[1:] for r in got] == rows
    (tmp_path / 't.csv').write_text('name, label\n\n a , x \n,\n', encoding='utf-8')
    assert read_table(tmp_path / 't.csv')[1] == [(3, 'a', 'x')]


@pytest.mark.parametrize('content, says', [
    (b'', 'line 1: expected two columns'), (b'name,label\n', 'no rows below its header'),
    (b'name,label,by\na,b,c\n', r"line 1: expected two columns .*columns="),
    (b'name;label\na;b\n', 'with a comma between'),
    (b'name,label\na,x\nb,y\na,z\n', "line 4: 'a' stands in line 2"),
    (b'name,label\na,x\na,x\n', "line 3: 'a' stands in line 2"),
    (b'name,label\na,x\nb,\n', "line 3: 'b' has no label"),
    (b'name,label\na,x\nb,  \n', "line 3: 'b' has no label"), (b'name,label\n,x\n', 'line 2: no name'),
    (b'name,label\na,x,y\n', r'line 2: expected 2 columns .*got 3'),
    (b'name,label\na\n', 'line 2: expected 2 columns'),
    ('name,label\nä,x\n'.encode('utf-16'), 'no table in UTF-8'),
    ('name,label\nä,x\n'.encode('latin-1'), 'no table in UTF-8')])
def test_tables_that_do_not_fit(tmp_path, content, says):
    (tmp_path / 't.csv').write_bytes(content)
    with refuses(f't.csv.*{says}'): read_table(tmp_path / 't.csv')
    (tmp_path / 'all').mkdir()
    with refuses(f't.csv.*{says}'): ImageData.from_csv(tmp_path, 'all', 't.csv', size=16)


def test_columns_by_name(tagged):
    rows = [(i, 'odd' if i % 2 else 'even', f'p{i}.jpg') for i in range(10)]
    table(tagged / 'wide.csv', rows, ('id', 'kind', 'file'))
    data = ImageData.from_csv(tagged, 'all', 'wide.csv', columns=('file', 'kind'), size=16)
    assert data.classes == ['even', 'odd'] and len(data.valid.names) == 2
    with refuses(r"wide.csv, line 1: no column 'tags', there are \['id', 'kind', 'file'\]"):
        ImageData.from_csv(tagged, 'all', 'wide.csv', columns=('file', 'tags'), size=16)


def test_files_that_are_missing(tagged):
    with refuses(r"labels.csv, line 2: there is no file .*p0 \(10 such\).*suffix='.jpg'", FileNotFoundError):
        ImageData.from_csv(tagged, 'all', 'labels.csv', size=16)
    (tagged / 'all' / 'p4.jpg').unlink()
    with refuses(r'labels.csv, line 6: there is no file .*p4.jpg \(1 such\)', FileNotFoundError):
        ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', size=16)
    with refuses('none.csv', FileNotFoundError): ImageData.from_csv(tagged, 'all', 'none.csv', size=16)
    with refuses('no folder .*sooner', FileNotFoundError):
        write(tagged / 'all' / 'p4.jpg', Image.new('RGB', (9, 9)))
        ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', size=16, test='sooner')


def test_a_table_without_its_header_and_a_broken_picture(tagged):
    rows = [(f'p{i}', 'x') for i in range(10)]
    table(tagged / 'headless.csv', rows[1:], rows[0])
    with refuses('headless.csv, line 1: .*must name the columns'):
        ImageData.from_csv(tagged, 'all', 'headless.csv', '.jpg', size=16)
    (tagged / 'all' / 'p5.jpg').write_text('once upon a time')
    with refuses('p5.jpg is not a picture'): ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', size=16)


def test_a_class_of_one_picture_that_falls_to_validation(tagged, capsys):
    table(tagged / 'rare.csv', [(f'p{i}', 'rare' if i == 4 else 'common') for i in range(10)])
    data = ImageData.from_csv(tagged, 'all', 'rare.csv', '.jpg', valid_idxs=[4, 5], size=16)
    assert "['rare'], which training has not" in capsys.readouterr().out
    assert data.classes == ['common', 'rare']


@given(st.integers(2, 500), st.floats(.01, .99), st.integers(0, 99))
def test_valid_idxs(n, pct, seed):
    held = valid_idxs(n, pct, seed)
    assert np.array_equal(held, valid_idxs(n, pct, seed)) and np.array_equal(held, np.unique(held))
    assert len(held) == min(max(int(n*pct), 1), n - 1) and held.min() >= 0 and held.max() < n
    kept, same = split_rows(n, held)
    assert sorted([*kept, *same]) == list(range(n))


def test_rows_for_validation_that_do_not_fit(tagged):
    for held in ([10], [-1], [1, 1], [], [.5], range(10), [[1]]):
        with refuses('row numbers 0 to 9, each once'):
            ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', valid_idxs=held, size=16)
    for n, pct in ((1, .2), (10, 0), (10, 1), (10, 20)):
        with refuses('valid_idxs: expected'): valid_idxs(n, pct)


some_labels = st.lists(st.sampled_from('abcde'), min_size=1, max_size=4, unique=True)


@given(st.lists(some_labels, min_size=1, max_size=9))
def test_labels_there_and_back(rows):
    y, classes = parse_labels([' '.join(r) for r in rows])
    assert classes == sorted({c for r in rows for c in r})
    rows_of_y = y if y.ndim == 2 else np.eye(len(classes))[y]
    back = [[c for c, on in zip(classes, row) if on] for row in rows_of_y]
    assert [sorted(r) for r in rows] == back


def test_a_text_without_a_label_is_no_row_of_zeros():
    for texts, sep in ((['a|b', '|'], '|'), (['a b', ' '], ' '), (['a', ''], ' ')):
        with refuses(f"text 1 has no label, only '{re.escape(texts[1])}'"): parse_labels(texts, sep)
    with refuses('t.csv, line 3 has no label'): parse_labels(['a', '|'], '|', ['line 2', 't.csv, line 3'])


# --- other settings, smaller files

@pytest.mark.parametrize('in_memory', [True, False])
def test_replace(folder, in_memory):
    data = ImageData.from_folder(folder, test='test', size=16, aug='flip+crop', bs=4, in_memory=in_memory)
    batches(data.train)
    other = data.replace(stats=((.5,)*3, (.25,)*3))
    assert other.stats == ((.5,)*3, (.25,)*3) and other.path == folder and other.train.epoch == 1
    assert (other.train.x is data.train.x) and type(other.train) is type(data.train)
    x, x2 = (next(iter(d.valid))[0] for d in (data, other))
    assert np.array_equal(data.decode(x), other.decode(x2)) and not torch.equal(x, x2)
    large = data.replace(size=32, bs=2)
    assert large.size == 32 and large.bs == large.valid.bs == 2 and large.stats == data.stats
    assert large.aug.steps[1][1]['pad'] == 4 and data.aug.steps[1][1]['pad'] == 2
    assert np.array_equal(large.test.picture(1), open_picture(large.test.files[1], 32))     # from the file
    assert large.test.names == data.test.names and large.replace(size=16).size == 16
    assert data.replace(aug='none').aug.name == 'none' and data.size == 16
    with refuses("called 'sideon'"): data.replace(aug='sideon')


def test_replace_of_arrays_and_of_other_loaders(folder):
    x, y = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), np.arange(12) % 3
    data = ImageData.from_arrays(x, y, x, y, aug='side-on', max_zoom=1.2, bs=5)
    assert data.replace(size=16).one_batch()[0].shape == (5, 3, 16, 16)
    assert data.replace(aug='none').train.x is data.train.x and data.train.names[3] == '3'
    assert data.train.files is None and np.array_equal(data.valid.picture(2), x[2])
    assert data.path is None
    with refuses('resize makes files of files'): data.resize(16)
    pairs = [(torch.zeros(2, 3, 4, 4), torch.zeros(2).long())]
    own = ImageData(pairs, pairs)
    with refuses('your own'): own.replace(size=3)
    assert own.multi is False


def test_many_labels_from_arrays():
    x = np.zeros((4, 8, 8, 3), np.uint8)
    y = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    data = ImageData.from_arrays(x, y, x[:2], y[:2].astype(bool), list('abc'), test=x, bs=3)
    assert data.multi and data.c == 3 and data.one_batch()[1].dtype == torch.float32
    assert data.valid.y.tolist() == y[:2].tolist()
    assert (data.test.y == -1).all() and data.test.y.shape == (4, 3)
    assert ImageData.from_arrays(x, y, x, y).classes == ['0', '1', '2']
    for bad, says in ((y[:, :2], 'one column a class'), (y + 1, 'holds 0 and 1 alone'),
                      (y[:3], '3 labels for 4 pictures'), (y[:, :1], 'one number a picture')):
        with refuses(says): ImageData.from_arrays(x, bad, x, y, list('abc'))
    with refuses('one label a picture in both, or many in both'):
        ImageData.from_arrays(x, y, x, [0, 1, 2, 0], list('abc'))


def test_pictures_of_one_colour_and_statistics_of_ones_own(tagged):
    data = ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', size=16)    # no green in them at all
    assert data.stats[1][1] == 0 and data.replace(size=8).one_batch()[0].isfinite().all()
    for stats in ((.5, .5), ((.5,)*3, (.5, 0, .5))):
        with refuses('stats: expected'): data.replace(stats=stats)
        with refuses('stats: expected'):
            ImageData.from_csv(tagged, 'all', 'labels.csv', '.jpg', size=16, stats=stats)


def test_a_label_of_validation_alone_is_told(capsys):
    x, y = np.zeros((2, 8, 8, 3), np.uint8), np.array([[1, 0], [1, 0]])
    ImageData.from_arrays(x, y, x, np.array([[1, 1], [0, 0]]), ['a', 'b'])
    assert "['b'], which training has not" in capsys.readouterr().out


def test_resize(folder, tmp_path_factory):
    data = ImageData.from_folder(folder, test='test', size=12, bs=4)
    small = data.resize(20)
    assert small.path.parent == datasets.write_root() and small.size == 12 and small.classes == data.classes
    assert small.test.names == data.test.names and small.test.files[0].name == '0.png.jpg'
    sizes = picture_sizes(small.path)
    assert len(sizes) == 18 and set(sizes.min(1).tolist()) == {16, 20}           # none is enlarged
    assert sizes.max() == 27 and torch.equal(small.train.y, data.train.y)
    made = {f: f.stat().st_mtime_ns for f in list_pictures(small.path)}
    assert data.resize(20).path == small.path and made == {f: f.stat().st_mtime_ns for f in made}
    assert data.resize(24).path != small.path
    assert ImageData.from_folder(small.path, size=12).classes == data.classes    # a folder like any other
    assert not [p for p in datasets.write_root().iterdir() if p.name.startswith('.resize-') and p.is_dir()]
    with refuses('never enlarge'): data.resize(11)


def test_a_resized_copy_of_other_files_is_never_used(folder, monkeypatch):
    data = ImageData.from_folder(folder, size=12)
    first = data.resize(20)
    own = data.resize(20, folder.parent / f'{folder.name}-small')
    f = folder / 'train' / 'cat' / '1.png'
    stat = f.stat()
    Image.new('RGB', (30, 40), 'white').save(f)
    os.utime(f, ns=(stat.st_atime_ns, stat.st_mtime_ns))                         # someone sets the clock back
    data = ImageData.from_folder(folder, size=12)
    second = data.resize(20)
    assert second.path != first.path and (second.train.picture(1) > 250).all()
    with refuses('files that have changed since'): data.resize(20, own.path)
    other = folder.parent / f'{folder.name}-moved'
    shutil.copytree(folder, other)
    files = [f for x, _ in data.sets.values() for f in x.files]
    moved = [other / f.relative_to(folder) for f in files]
    key = resized_key(folder, files, 20)
    assert key != resized_key(other, moved, 20) and key != resized_key(folder, files, 24)
    monkeypatch.setattr(files_module, '_resize_version', 2)                     # as if it resized otherwise
    assert resized_key(folder, files, 20) != key


def test_a_broken_file_leaves_no_half_cache(folder):
    data = ImageData.from_folder(folder, size=12)
    (folder / 'train' / 'cat' / '1.png').write_bytes(b'no picture')
    with refuses('1.png is not a picture'): data.resize(20)
    assert [p.name for p in datasets.write_root().iterdir() if p.is_dir()] == []


def test_resizing_a_jpeg_keeps_small_ones_byte_for_byte(tmp_path):
    for split in ('train', 'valid'):
        write(tmp_path / split / 'a' / 'small.jpg', Image.effect_noise((20, 30), 50))
        write(tmp_path / split / 'a' / 'large.jpg', Image.effect_noise((200, 90), 50).convert('CMYK'))
    small = ImageData.from_folder(tmp_path, size=16).resize(24)
    assert (small.path / 'train/a/small.jpg').read_bytes() == (tmp_path / 'train/a/small.jpg').read_bytes()
    with Image.open(small.path / 'train/a/large.jpg') as im: assert (im.size, im.mode) == ((53, 24), 'RGB')


# --- drawn sets

def test_drawn_sets(monkeypatch):
    monkeypatch.setenv('LESSONDL_SAMPLE', '1')
    path = datasets.cartoons()
    assert path == datasets.cartoons() and path.parent == datasets.write_root()
    data = ImageData.from_folder(path, test='test', size=32)
    assert data.classes == ['boxy', 'round']
    assert [len(t.y) for t in (data.train, data.valid, data.test)] == [48, 20, 20]
    sizes = picture_sizes(path)
    assert sizes.min() >= 130 and sizes.max() <= 260 and len(np.unique(sizes, axis=0)) > 50
    land = datasets.satellites()
    tiles = ImageData.from_csv(land, 'train-jpg', 'train_v2.csv', '.jpg', test='test-jpg', size=32)
    assert tiles.multi and tiles.c == 17 and tiles.test.names[:2] == ['test_0.jpg', 'test_1.jpg']
    assert 'artisinal_mine' in tiles.classes and (picture_sizes(land) == 256).all()
    assert len(tiles.train.y) + len(tiles.valid.y) == 80 and len(tiles.test.y) == 20


def test_a_drawing_broken_off_leaves_nothing(monkeypatch):
    monkeypatch.setenv('LESSONDL_SAMPLE', '1')
    import lessondl.drawings
    def interrupted(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(lessondl.drawings, 'cartoon', interrupted)
        with pytest.raises(KeyboardInterrupt): datasets.cartoons()
    assert [p for p in datasets.write_root().iterdir() if p.is_dir()] == []
    monkeypatch.setattr(lessondl.drawings, 'cartoon', lambda *args: Image.new('RGB', (9, 9)))
    assert datasets.cartoons().is_dir()


def test_the_same_drawings_for_everyone():
    from lessondl.drawings import cartoon, tile
    for draw in (lambda g: cartoon(1, g), lambda g: tile(['clear', 'primary', 'water'], g)):
        one, two, other = (np.asarray(draw(np.random.default_rng(s))) for s in (0, 0, 1))
        assert np.array_equal(one, two) and (one.shape != other.shape or not np.array_equal(one, other))
