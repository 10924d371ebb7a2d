"What augmentations may change and what they may not; every picture has a draw of its own."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lessondl.augment import (
    Augment,
    as_float,
    augmentation,
    augmentations,
    dihedral,
    flip,
    lighting,
    pad_crop,
    reflect,
    rotate_zoom,
    symmetries,
    take_pixels,
)

settings.register_profile('lessons', deadline=None, max_examples=30)
settings.load_profile('lessons')
seeds, sides = st.integers(0, 2**31), st.integers(1, 12)


def refuses(says): return pytest.raises(ValueError, match=says)


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def pictures(seed, b, c, h, w, last=True):
    x = torch.randint(0, 256, (b, c, h, w), dtype=torch.uint8, generator=seeded(seed))
    return x.contiguous(memory_format=torch.channels_last) if last else x


@given(seeds, st.integers(1, 5), st.sampled_from([1, 3, 4]), sides, sides, st.booleans())
def test_flip_twice_is_nothing(seed, b, c, h, w, last):
    x = pictures(seed, b, c, h, w, last)
    assert torch.equal(flip(x, seeded(), 1), x.flip(3))
    assert torch.equal(flip(flip(x, seeded(), 1), seeded(), 1), x)
    assert torch.equal(flip(x, seeded(), 0), x)


@given(seeds, st.integers(1, 6))
def test_flip_gives_each_picture_or_its_mirror(seed, b):
    x = pictures(seed, b, 3, 4, 6)
    for got, old in zip(flip(x, seeded(seed)), x, strict=True):
        assert torch.equal(got, old) or torch.equal(got, old.flip(2))


def test_flip_keeps_to_its_chance():
    x = pictures(0, 1, 1, 1, 8).expand(4000, -1, -1, -1)
    for p in (.1, .5, .9):
        share = (flip(x, seeded(), p) != x).any(3).float().mean()
        assert abs(float(share) - p) < .03


@given(seeds, st.integers(1, 4), sides, sides)
def test_take_pixels_does_not_depend_on_memory_order(seed, b, h, w):
    x = pictures(seed, b, 3, h, w, last=False)
    index = torch.randint(h * w, (b, 5, 2), generator=seeded(seed))
    want = x.flatten(2).gather(2, index.view(b, 1, 10).expand(-1, 3, -1)).view(b, 3, 5, 2)
    for t in (x, x.contiguous(memory_format=torch.channels_last), x.float()):
        got = take_pixels(t, index)
        assert torch.equal(got, want.to(t.dtype)) and got.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 9), st.integers(0, 30))
def test_reflect_is_numpys(n, pad):
    assert reflect(torch.arange(-pad, n + pad), n).tolist() == np.pad(np.arange(n), pad, 'reflect').tolist()


@given(seeds, sides, sides)
def test_pad_crop_by_nothing_is_nothing(seed, h, w):
    x = pictures(seed, 3, 3, h, w)
    for mode in ('reflect', 'zeros'): assert torch.equal(pad_crop(x, seeded(), 0, mode), x)


@given(seeds, st.integers(1, 3), st.sampled_from([('reflect', 'reflect'), ('zeros', 'constant')]))
def test_pad_crop_is_a_window_of_the_padded_picture(seed, pad, modes):
    x = pictures(seed, 4, 3, 6, 5)
    padded = F.pad(x.float(), (pad,) * 4, mode=modes[1])
    got = pad_crop(x, seeded(seed), pad, modes[0])
    assert got.dtype == torch.uint8
    windows = padded.unfold(2, 6, 1).unfold(3, 5, 1)                       # [B,C,2*pad+1,2*pad+1,H,W]
    for k in range(4):
        assert (windows[k] == got[k, :, None, None].float()).all((0, 3, 4)).any()


def test_pad_crop_reaches_every_window():
    x = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(2000, -1, -1, -1)
    assert len({t.numpy().tobytes() for t in pad_crop(x, seeded(), 1, 'zeros')}) == 9


def test_pad_crop_refuses():
    with refuses('0 or more'): pad_crop(pictures(0, 1, 3, 4, 4), seeded(), -1)
    with refuses("'reflect' or 'zeros'"): pad_crop(pictures(0, 1, 3, 4, 4), seeded(), 1, 'edge')


@given(st.integers(2, 9))
def test_the_eight_symmetries_are_a_group(n):
    table = symmetries(n).flatten(1)
    rows = {tuple(r.tolist()) for r in table}
    assert len(rows) == 8 and table[0].tolist() == list(range(n * n))
    for a in table:
        assert a.sort().values.tolist() == list(range(n * n))               # each only moves pixels
        for b in table: assert tuple(a[b].tolist()) in rows        # two of them are one of them


def test_dihedral_draws_all_eight_about_equally():
    x = pictures(3, 1, 3, 5, 5).expand(4000, -1, -1, -1)
    got = [t.contiguous().numpy().tobytes() for t in dihedral(x, seeded())]
    counts = [got.count(k) for k in set(got)]
    assert len(counts) == 8 and min(counts) > 400
    turned = {x[0].rot90(k, (1, 2)).contiguous().numpy().tobytes() for k in range(4)}
    assert turned < set(got)


def test_dihedral_wants_squares():
    with refuses('4 high and 6 wide'): dihedral(pictures(0, 2, 3, 4, 6), seeded())


@given(seeds, st.integers(1, 8), st.integers(1, 8))
def test_rotate_zoom_by_nothing_is_nothing(seed, h, w):
    x = pictures(seed, 2, 3, h, w)
    assert torch.allclose(rotate_zoom(x, seeded(), 0, 1), as_float(x), atol=1e-4)


def test_rotate_zoom_keeps_shapes_round_in_oblong_pictures():
    rows, cols = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(80) - 39.5, indexing='ij')
    disc = torch.sigmoid(2 * (12 - (rows ** 2 + cols ** 2).sqrt())).expand(8, 1, -1, -1)
    assert (rotate_zoom(disc, seeded(), 180, mode='zeros') - disc).abs().max() < .15
    zoomed = rotate_zoom(disc, seeded(), 0, 1.5)
    assert (zoomed.sum((1, 2, 3)) > disc.sum((1, 2, 3))).all()


@given(seeds, st.floats(0, .5), st.floats(0, .9))
def test_lighting_stays_in_bounds(seed, brightness, contrast):
    x = pictures(seed, 3, 3, 4, 4)
    got = lighting(x, seeded(seed), brightness, contrast)
    assert got.dtype == torch.float32 and 0 <= got.min() and got.max() <= 1
    assert (got - as_float(x)).abs().max() <= brightness + contrast + 1e-5


@pytest.mark.parametrize('name', augmentations)
@pytest.mark.parametrize('last', [True, False])
def test_named_sets(name, last):
    x = pictures(0, 16, 3, 16, 16, last)
    before = x.clone()
    aug = augmentation(name, 16) if name == 'none' else augmentation(name, 16, max_zoom=1.2, pad=3)
    got = aug(x, seeded(1))
    assert got.shape == x.shape and torch.equal(x, before)          # the pictures given are left alone
    assert torch.equal(got, aug(x, seeded(1)))                              # the seed decides
    if name != 'none':
        assert not torch.equal(got, aug(x, seeded(2)))
        same = aug(x[:1].expand(16, -1, -1, -1), seeded(1))
        assert len({t.contiguous().numpy().tobytes() for t in same}) > 10   # a draw for each picture


@pytest.mark.parametrize('name', augmentations)
@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 3, 1, 1), (1, 4, 2, 2)])
def test_named_sets_on_tiny_pictures(name, shape):
    assert augmentation(name, shape[2])(pictures(0, *shape), seeded()).shape == shape


def test_names_and_arguments():
    steps = {name: [f.__name__ for f, _ in augmentation(name, 32).steps] for name in augmentations}
    assert steps == {'none': [], 'flip+crop': ['flip', 'pad_crop'],
                     'side-on': ['flip', 'rotate_zoom', 'lighting'],
                     'top-down': ['dihedral', 'rotate_zoom', 'lighting']}
    assert augmentation('flip+crop', (64, 40)).steps[1][1]['pad'] == 5
    assert augmentation('side-on', 64, pad=8).steps[1][1] == {'pad': 8, 'mode': 'reflect'}
    assert augmentation('flip+crop', 32, max_zoom=1.1).steps[2][1] == {'degrees': 0, 'max_zoom': 1.1}
    with refuses("called 'flip'"): augmentation('flip', 32)
    for name in augmentations:
        for zoom in (0, .9, float('nan')):
            with refuses('max_zoom is a factor of 1 or more'): augmentation(name, 32, max_zoom=zoom)
    with refuses('does nothing'): augmentation('none', 32, pad=4)
    assert 'flip(p=0.5)' in repr(Augment([(flip, {'p': .5})]))
