"Loaders and ImageData: order, seeds, bad pictures, bad labels, and loaders that are not ours."
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lessondl.data import (
    BatchLoader,
    ImageData,
    channel_stats,
    check_labels,
    check_pictures,
    check_stats,
    resize,
)

settings.register_profile('lessons', deadline=None, max_examples=30)
settings.load_profile('lessons')
def refuses(says, error=ValueError): return pytest.raises(error, match=says)


unit = (0., 0., 0.), (1., 1., 1.)


def arrays(n=50, m=20, side=8, c=3, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    def make(k): return rng.integers(0, 256, (k, side, side, c), dtype=np.uint8), rng.integers(0, classes, k)
    return *make(n), *make(m)


def epoch(loader):
    "All pictures and labels of the coming epoch."
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


# --- statistics and the way there and back

@given(st.integers(0, 2**31), st.sampled_from([1, 3]), st.integers(1, 600))
def test_stats_are_numpys(seed, c, n):
    x = np.random.default_rng(seed).integers(0, 256, (n, 3, 2, c), dtype=np.uint8)
    mean, std = channel_stats(x)
    assert np.allclose(mean, x.mean((0, 1, 2)) / 255, atol=1e-12)
    assert np.allclose(std, x.std((0, 1, 2)) / 255, atol=1e-7)
    decimal = (x / 255).astype(np.float32)
    assert np.allclose(channel_stats(decimal)[0], mean, atol=1e-6)


@given(st.integers(0, 2**31), st.booleans())
def test_there_and_back_is_exact(seed, own):
    a = arrays(seed=seed)
    stats = None if own else ((.4, .5, .6), (.2, .25, .3))
    data = ImageData.from_arrays(*a, stats=stats, bs=7)
    assert np.array_equal(np.concatenate([data.decode(x) for x, y in data.valid]), a[2])
    decimal = [(x / 255).astype(np.float32) if x.ndim == 4 else x for x in a]
    data = ImageData.from_arrays(*decimal, stats=stats, bs=7)
    assert np.array_equal(np.concatenate([data.decode(x) for x, y in data.valid]), a[2])


def test_normalised_by_the_training_set():
    a = arrays(400)
    data = ImageData.from_arrays(*a, bs=400)
    x, y = next(iter(data.train))
    assert x.mean((0, 2, 3)).abs().max() < 1e-5 and (x.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert data.valid.stats == data.train.stats == channel_stats(a[0])


def test_a_channel_that_never_changes_becomes_zero():
    a = list(arrays()); a[0] = a[0].copy(); a[0][..., 1] = 77
    x, _ = ImageData.from_arrays(*a).one_batch()
    assert x.isfinite().all() and x[:, 1].abs().max() < 1e-5


def test_decode_of_other_types():
    data = ImageData.from_arrays(*arrays())
    x, _ = next(iter(data.valid))
    assert np.abs(data.decode(x.bfloat16()).astype(int) - data.decode(x)).max() <= 2
    assert np.array_equal(data.decode(x.requires_grad_()), data.decode(x.detach()))


# --- the loader

@given(st.integers(1, 40), st.integers(1, 45), st.booleans())
def test_len_and_last_batch(n, bs, drop_last):
    x, y = np.zeros((n, 2, 2, 3), np.uint8), np.arange(n)
    if drop_last and bs > n:
        with refuses('no batch'): BatchLoader(x, y, bs, stats=unit, drop_last=True)
        return
    loader = BatchLoader(x, y, bs, stats=unit, drop_last=drop_last, shuffle=True)
    sizes = [len(t) for _, t in loader]
    assert len(loader) == len(sizes) and sum(sizes) == (n // bs * bs if drop_last else n)
    assert all(s == bs for s in sizes[:-1])


@given(st.integers(0, 1000))
def test_same_seed_same_epochs(seed):
    a = arrays()
    one, two = (ImageData.from_arrays(*a, aug='side-on', seed=seed, bs=16) for _ in range(2))
    two.one_batch()                                        # looking uses nothing up
    for _ in zip(two.train.batches(5), range(2), strict=False): pass
    seen = []
    for _ in range(3):
        (x1, y1), (x2, y2) = epoch(one.train), epoch(two.train)
        assert torch.equal(x1, x2) and torch.equal(y1, y2)
        assert sorted(y1.tolist()) == sorted(a[1].tolist())
        seen.append(x1)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_other_seed_other_epoch():
    x = [epoch(ImageData.from_arrays(*arrays(), seed=s).train)[0] for s in (0, 1)]
    assert not torch.equal(*x)


def test_two_walks_at_once_do_not_disturb_each_other():
    data = ImageData.from_arrays(*arrays(), aug='flip+crop', bs=8)
    want = [torch.cat([x for x, _ in data.train.batches(k)]) for k in (0, 1)]
    got = [torch.cat(xs) for xs in zip(*[(a[0], b[0]) for a, b in zip(data.train, data.train, strict=True)],
                                       strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_global_random_state_is_left_alone():
    data = ImageData.from_arrays(*arrays(), aug='side-on')
    torch.manual_seed(1); before = torch.get_rng_state()
    for _ in data.train: pass
    data.one_batch()
    assert torch.equal(before, torch.get_rng_state())


def test_labels_stay_with_their_pictures():
    x = np.arange(100, dtype=np.uint8).repeat(4 * 3).reshape(100, 2, 2, 3)
    data = ImageData.from_arrays(x, np.arange(100), x, np.arange(100), aug='flip+crop', bs=9)
    for loader in (data.train, data.valid, data.augmented()):
        for p, y in loader: assert (data.decode(p)[:, 0, 0, 0] == y.numpy()).all()


def test_valid_and_test_are_in_order_and_plain():
    a = arrays()
    data = ImageData.from_arrays(*a, aug='top-down', test=a[2:], bs=8, valid_bs=6)
    for _ in range(2):
        for loader in (data.valid, data.test):
            x, y = epoch(loader)
            assert np.array_equal(data.decode(x), a[2]) and y.tolist() == a[3].tolist()
    assert len(data.valid) == 4 and len(data.train) == 7


def test_augmented_draws_anew_in_order():
    a = arrays()
    data = ImageData.from_arrays(*a, aug='flip+crop', test=a[2], bs=8)
    first, second = (torch.cat([x for x, _ in data.augmented('test')]) for _ in range(2))
    assert not torch.equal(first, second)
    again = ImageData.from_arrays(*a, aug='flip+crop', test=a[2], bs=8)
    assert torch.equal(first, torch.cat([x for x, _ in again.augmented('test')]))
    with refuses("no split 'all'"): data.augmented('all')
    with refuses("no split 'test'"): ImageData.from_arrays(*a).augmented('test')


def test_memory_maps_pass_without_a_warning_and_without_a_copy(tmp_path):
    a = arrays()
    np.save(tmp_path / 'x.npy', a[0])
    x = np.load(tmp_path / 'x.npy', mmap_mode='r')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        data = ImageData.from_arrays(x, a[1], x, a[1], aug='flip+crop')
        got, _ = next(iter(data.valid))
        for _ in data.train: pass
    assert data.train.x is x and np.array_equal(data.decode(got), x)


@pytest.mark.parametrize('aug', ['none', 'flip+crop', 'side-on', 'top-down'])
@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('size', [None, 5, 12])
def test_batches_are_float32_channels_last(aug, c, size):
    data = ImageData.from_arrays(*arrays(c=c), aug=aug, size=size)
    x, y = data.one_batch()
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert x.shape == (50, c, size or 8, size or 8) and data.size == (size or 8)
    assert x.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
@example(1, 2, 2, 1)
def test_resize_gives_the_size(n, h, w, size):
    x = torch.full((n, 3, h, w), 99, dtype=torch.uint8)
    got = resize(x, size)
    assert got.shape == (n, 3, size, size) and (got == 99).all()


def test_oblong_pictures_and_pictures_of_one_pixel():
    x, y = np.zeros((6, 4, 8, 3), np.uint8), np.array([0, 1] * 3)
    assert ImageData.from_arrays(x, y, x, y, aug='side-on').size == (4, 8)
    one = np.full((6, 1, 1, 3), 9, np.uint8)
    for aug in ('flip+crop', 'side-on', 'top-down'):
        assert ImageData.from_arrays(one, y, one, y, aug=aug).one_batch()[0].isfinite().all()


def test_own_augmentation():
    def black(x, g): return torch.zeros_like(x)
    data = ImageData.from_arrays(*arrays(), aug=black)
    assert (data.decode(data.one_batch()[0]) == 0).all() and data.aug is black


# --- arrays that do not fit

@pytest.mark.parametrize('x, says', [
    (np.zeros((4, 8, 8, 3)), 'float64.*astype'), (np.zeros((4, 8, 8, 3), np.int64), 'int64.*uint8'),
    (np.full((4, 8, 8, 3), np.nan, np.float32), 'picture 0 holds NaN'),
    (np.full((4, 8, 8, 3), np.inf, np.float32), 'infinity'),
    (np.full((4, 8, 8, 3), 200, np.float32), 'by 255'),
    (np.full((4, 8, 8, 3), -1, np.float32), 'TensorDataset'),
    (np.zeros((4, 3, 32, 32), np.uint8), r'transpose\(0, 2, 3, 1'),
    (np.zeros((0, 8, 8, 3), np.uint8), 'none of them 0'), (np.zeros((8, 8), np.uint8), r'\[N,H,W,C\]'),
    ([[1, 2]], 'got list'), (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), 'permute')])
def test_pictures_that_do_not_fit(x, says):
    with refuses(says): check_pictures(x)
    _, y, vx, vy = arrays()
    with refuses('train pictures: '): ImageData.from_arrays(x, y[:4], vx, vy)


@pytest.mark.parametrize('y, says', [
    ([0, 1, 4], 'label 4 of picture 2 .*0 to 3'), ([-1, 0, 1], 'label -1 of picture 0'),
    ([0., 1, 2], 'float64.*astype'), ([0, 1], '2 labels for 3 pictures'),
    ([[0], [1], [2]], 'one number a picture'), (['a', 'b', 'c'], 'whole numbers')])
def test_labels_that_do_not_fit(y, says):
    with refuses(says): check_labels(y, 3, 4)


def test_sets_that_do_not_fit_together():
    x, y, vx, vy = arrays()
    with refuses('valid labels: .*out of range'):
        ImageData.from_arrays(x, np.zeros(50, int), vx, vy)
    with refuses('give size='): ImageData.from_arrays(x, y, vx[:, :4], vy)
    with refuses('channels equal'): ImageData.from_arrays(x, y, vx[..., :1], vy, size=8)
    with refuses('test labels'): ImageData.from_arrays(x, y, vx, vy, test=(vx, vy[:3]))
    with refuses('stats: expected'): ImageData.from_arrays(x, y, vx, vy, stats=(.5, .5))
    with refuses('stats: expected'): check_stats(((0., 0.), (1., 0.)), 2)
    with refuses("called 'sideon'"): ImageData.from_arrays(x, y, vx, vy, aug='sideon')
    with refuses('bs=0'): ImageData.from_arrays(x, y, vx, vy, bs=0)
    with refuses('max_zoom is'): ImageData.from_arrays(x, y, vx, vy, aug='side-on', max_zoom=0)


def test_a_class_that_training_never_sees_is_told(capsys):
    x, _, vx, _ = arrays(4, 3)
    ImageData.from_arrays(x, [0, 1, 0, 1], vx, [0, 1, 0], ['a', 'b', 'c'])
    assert capsys.readouterr().out == ''
    ImageData.from_arrays(x, [0, 1, 0, 1], vx, [0, 1, 2], ['a', 'b', 'c'])
    assert "['c'], which training has not" in capsys.readouterr().out


# --- loaders that are not ours

def test_dataset_dataloader_and_list():
    x, y = torch.rand(10, 3, 4, 4), torch.arange(10) % 2
    pairs = TensorDataset(x, y)
    for train in (pairs, DataLoader(pairs, batch_size=5, shuffle=True), [(x[:5], y[:5]), (x[5:], y[5:])]):
        data = ImageData(train, pairs, classes=['a', 'b'], bs=5)
        got, labels = data.one_batch()
        assert got.shape == (5, 3, 4, 4) and data.size == 4 and data.c == 2 and len(data.train) == 2
        assert torch.cat([t for _, t in data.valid]).tolist() == y.tolist()
        assert data.decode(got).shape == (5, 4, 4, 3)
    one, two = (ImageData(pairs, pairs, seed=3, bs=10) for _ in range(2))
    assert torch.equal(one.one_batch()[1], two.one_batch()[1])
    assert one.classes is None and one.c is None
    with refuses('DataLoader of your own'): one.augmented()


def test_torchvision():
    datasets = pytest.importorskip('torchvision.datasets')
    from torchvision.transforms import ToTensor
    fake = datasets.FakeData(size=12, image_size=(3, 8, 8), num_classes=2, transform=ToTensor())
    data = ImageData(fake, DataLoader(fake, batch_size=4), bs=4)
    assert len(data.train) == 3 and data.one_batch()[0].shape == (4, 3, 8, 8)
    with refuses('train: the Dataset gives pictures as Image.*ToTensor'):
        ImageData(datasets.FakeData(size=12), fake)


def test_what_is_no_loader():
    pairs = TensorDataset(torch.rand(4, 3, 4, 4), torch.zeros(4))
    with refuses('valid: expected a Dataset'): ImageData(pairs, 5)
    with refuses('train: an iterator'): ImageData(iter([]), pairs)
    with refuses('torch.uint8'):
        ImageData(TensorDataset(torch.zeros(4, 3, 4, 4).byte(), torch.zeros(4)), pairs)
    with refuses(r'items \(picture, label\)'): ImageData(TensorDataset(torch.rand(4, 3)), pairs)


class Stream(IterableDataset):
    def __iter__(self): return ((torch.rand(3, 4, 4), i % 2) for i in range(10))


def test_an_iterable_dataset_needs_a_loader():
    pairs = TensorDataset(torch.rand(4, 3, 4, 4), torch.zeros(4))
    with refuses('train: an IterableDataset.*DataLoader first, with batch_size=5'):
        ImageData(Stream(), pairs, bs=5)
    with refuses('valid: an IterableDataset'): ImageData(pairs, Stream())
    train, valid = (DataLoader(Stream(), batch_size=bs) for bs in (4, 5))
    data = ImageData(train, valid, classes=['a', 'b'])
    assert data.one_batch()[0].shape == (4, 3, 4, 4) and data.bs == 4
    assert torch.cat([y for _, y in data.valid]).tolist() == [0, 1] * 5


def test_show_batch():
    plt = pytest.importorskip('matplotlib.pyplot')
    data = ImageData.from_arrays(*arrays(), classes=list('abcd'))
    axes = data.show_batch(5)
    assert len(axes) == 5 and axes[0].get_title() in 'abcd'
    plt.close('all')


def test_a_channel_of_equal_floats_has_no_deviation():
    x = np.random.default_rng(0).random((300, 4, 4, 3))
    x[..., 1] = 0.7
    assert channel_stats(x)[1][1] == 0 and channel_stats(x.astype(np.float32))[1][1] == 0


def test_names_as_labels_and_an_empty_dataset_are_told():
    with pytest.raises(ValueError, match='return_inverse'):
        x = np.zeros((4, 8, 8, 3), np.uint8)
        ImageData.from_arrays(x, np.array(list('abab')), x, np.arange(4) % 2, bs=2)
    with pytest.raises(ValueError, match='train: the Dataset is empty'):
        ImageData(torch.utils.data.TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0)), None)
