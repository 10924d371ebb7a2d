"`lessondl.plots`: any layout of a picture, any number of pictures."
import os
import subprocess
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessondl.plots import show_image, show_images, show_numbers, show_signed

rng = np.random.default_rng(0)
rgb = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)

@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')

def shown(ax): return np.asarray(ax.images[0].get_array())

def test_layouts_show_the_same():
    for x in (rgb, rgb.transpose(2, 0, 1), torch.from_numpy(rgb), torch.from_numpy(rgb).permute(2, 0, 1)):
        assert (shown(show_image(x)) == rgb).all()
    grey = rgb[..., 0]
    for x in (grey, grey[None], grey[..., None], torch.from_numpy(grey)[None]):
        assert (shown(show_image(x)) == grey).all()

def test_three_rows_are_not_three_channels():
    "A picture whose last axis is a channel axis is taken channels last, whatever its height."
    assert shown(show_image(rgb[:3])).shape == (3, 6, 3)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_denormalised(dtype):
    mean, std = (.4914, .48216, .44653), (.24703, .24349, .26159)
    x = torch.from_numpy(rgb).permute(2, 0, 1).float()/255
    n = (x - torch.tensor(mean)[:, None, None])/torch.tensor(std)[:, None, None]
    got = shown(show_image(n.to(dtype).requires_grad_(), mean=mean, std=std))
    assert np.abs(got*255 - rgb).max() < (3 if dtype in (torch.bfloat16, torch.float16) else .01)

def test_grey_uint8_keeps_its_range():
    "A dark picture stays dark: not stretched to black and white."
    assert show_image(np.full((4, 4), 100, np.uint8)).images[0].get_clim() == (0, 255)
    assert show_image(np.eye(3)*7).images[0].get_clim() == (0, 7)  # an activation: its own range

def test_ranges_outside_are_clipped_quietly(recwarn):
    show_image(rgb/255*2 - .5); assert not [w for w in recwarn if 'lipping' in str(w.message)]

@pytest.mark.parametrize('dtype', [np.int64, np.int16, np.uint16])
def test_bytes_in_a_wider_type_are_bytes(dtype):
    assert (shown(show_image(rgb.astype(dtype))) == rgb).all()
    assert (shown(show_image(torch.from_numpy(rgb.astype(np.int64)).permute(2, 0, 1))) == rgb).all()

@pytest.mark.parametrize('x', [rgb*1., rgb.astype(np.float32), rgb.astype(int) - 1, rgb.astype(int)*2])
def test_colours_beyond_their_range_are_refused(x):
    "They would all be clipped to white, with no word."
    with pytest.raises(ValueError, match='0 to 255 or floats from 0 to 1, but this one is'): show_image(x)

def test_mean_and_std_come_together():
    for one in (dict(mean=[.5]*3), dict(std=[.5]*3)):
        with pytest.raises(ValueError, match='mean and std together'): show_image(rgb/255, **one)
        with pytest.raises(ValueError, match='mean and std together'): show_images([rgb/255], **one)

def test_grey_floats_keep_their_range_on_request():
    x = np.array([[.4, .5]])
    assert show_image(x).images[0].get_clim() == (.4, .5)
    assert show_image(x, vmin=0, vmax=1).images[0].get_clim() == (0, 1)

@pytest.mark.parametrize('shape', [(), (3,), (2, 3, 4, 5), (5, 7, 9)])
def test_errors_name_the_shape(shape):
    with pytest.raises(ValueError, match=r'expected one picture.*got shape \['): show_image(np.zeros(shape))

@settings(max_examples=8, deadline=None)
@given(st.integers(1, 30), st.one_of(st.none(), st.integers(1, 12)))
def test_grid_shows_exactly_n(n, cols):
    axes = show_images([rgb]*n, [str(i) for i in range(n)], cols=cols)
    assert len(axes) == n == len(axes[0].figure.axes)
    assert [a.get_title() for a in axes] == [str(i) for i in range(n)]
    plt.close('all')

def test_grid_of_a_batch_and_errors():
    assert len(show_images(torch.rand(5, 3, 8, 8))) == 5
    with pytest.raises(ValueError, match='no pictures'): show_images([])
    with pytest.raises(ValueError, match='2 pictures but 1 titles'): show_images([rgb, rgb], ['a'])

@pytest.mark.parametrize('lines', [1, 2, 3])
def test_titles_do_not_lie_on_the_row_above(lines):
    axes = show_images([rgb]*6, ['\n'.join(['title']*lines)]*6, cols=3)
    axes[0].figure.canvas.draw()
    above, title = axes[0].get_window_extent(), axes[3].title.get_window_extent()
    assert title.y1 <= above.y0 and axes[0].title.get_window_extent().y1 <= axes[0].figure.bbox.y1

def test_signed_is_white_at_zero():
    x = np.array([[-1., 0], [3, np.nan]])
    for show in (show_signed, show_numbers):
        image = show(torch.tensor(x)).images[0]
        assert image.get_clim() == (-3, 3) and show(x, limit=1).images[0].get_clim() == (-1, 1)
        below, zero, above = (image.cmap(float(image.norm(v)))[:3] for v in (-3, 0, 3))
        assert min(zero) > .95 and below[2] > below[0] and above[0] > above[2]
        assert show(np.zeros((2, 2))).images[0].get_clim() == (-1, 1)    # nothing to divide by
        with pytest.raises(ValueError, match=r'one table.*got shape \[2, 3, 3\]'): show(np.zeros((2, 3, 3)))
        plt.close('all')
    assert show_signed(np.array([[0, 255]], np.uint8)).images[0].get_clim() == (-255, 255)

def test_numbers_are_written_in_their_cells():
    ax = show_numbers(np.array([[-2, -.04, np.nan], [.5, 1, 4]]), decimals=1)
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [
        ('-2.0', (0, 0)), ('0.0', (1, 0)), ('0.5', (0, 1)), ('1.0', (1, 1)), ('4.0', (2, 1))]
    assert [t.get_color() for t in ax.texts][1::3] == ['black', 'white']

def test_no_torch_at_import():
    code = ('import lessondl.plots, lessondl.datasets, sys\n'
            'print("torch" in sys.modules, "matplotlib" in sys.modules)')
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ['False', 'False'], done.stderr

def test_a_name_with_two_dollars_is_text():
    show_images(np.zeros((1, 4, 4), np.uint8), ['costs $5_$.jpg'])
    plt.gcf().canvas.draw()
