"""Properties of schedules that a lesson's examples cannot show; `nbs/07_schedules.ipynb` tests the rest."""
import subprocess
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lessondl import schedules as S

number = st.floats(-1e3, 1e3)
positive = st.floats(1e-8, 1e3)
count = st.integers(1, 200)
cycles = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 20))


@pytest.mark.parametrize('shape', [S.linear, S.cosine])
@given(start=number, end=number, n=count)
def test_shapes_run_from_start_to_end(shape, start, end, n):
    values = shape(start, end, n)
    assert values.dtype == np.float64 and values.shape == (n,)
    assert values[0] == pytest.approx(start, abs=1e-9)
    if n > 1:
        assert values[-1] == pytest.approx(end, abs=1e-9)
    low, high = sorted((start, end))
    assert (values >= low - 1e-9).all() and (values <= high + 1e-9).all()
    assert (np.diff(values) * np.sign(end - start) >= -1e-9).all()


@given(start=positive, end=positive, n=st.integers(2, 200))
def test_exponential_has_equal_factors(start, end, n):
    values = S.exponential(start, end, n)
    assert values.shape == (n,) and (values > 0).all()
    assert values[[0, -1]] == pytest.approx([start, end])
    assert np.diff(np.log(values)) == pytest.approx(np.log(end / start) / (n - 1), abs=1e-9)


@given(cycles)
def test_sgdr_restarts_exactly_where_cycles_begin(c):
    n_cycles, cycle_len, cycle_mult, per_epoch = c
    epochs = S.cycle_epochs(n_cycles, cycle_len, cycle_mult)
    assert len(epochs) == n_cycles and epochs[0] == cycle_len
    assert all(b == a * cycle_mult for a, b in zip(epochs, epochs[1:], strict=False))
    factors = S.sgdr(n_cycles, cycle_len, cycle_mult, per_epoch)
    assert len(factors) == sum(epochs) * per_epoch
    assert (factors > 0).all() and (factors <= 1).all()
    begins = np.cumsum([0, *epochs[:-1]]) * per_epoch
    assert np.flatnonzero(factors == 1).tolist() == begins.tolist()
    inside = np.diff(factors)
    inside[begins[1:] - 1] = -1          # the jumps up
    assert (inside < 0).all()


@given(st.integers(1, 50), st.integers(1, 50))
def test_without_cycle_len_the_rate_stays(n_epochs, per_epoch):
    assert S.cycle_epochs(n_epochs) == [n_epochs]
    assert (S.constant(n_epochs, per_epoch) == np.ones(n_epochs * per_epoch)).all()


@given(n=st.integers(1, 500), pct=st.floats(0, 1), div=st.floats(1, 100), final_div=st.floats(1, 1e6))
def test_one_cycle_has_one_peak_and_mirrored_momentum(n, pct, div, final_div):
    factors, momenta = S.one_cycle(n, pct, div, final_div, (0.9, 0.7))
    assert factors.shape == momenta.shape == (n,)
    assert factors.max() == 1 and momenta.min() == pytest.approx(0.7) and momenta.max() <= 0.9 + 1e-12
    peak = min(max(round(pct * n) - 1, 0), n - 1)
    assert factors[peak] == 1 and momenta[peak] == pytest.approx(0.7)
    assert (np.diff(factors[:peak + 1]) >= 0).all() and (np.diff(factors[peak:]) <= 1e-15).all()
    assert (np.diff(factors) * np.diff(momenta) <= 1e-15).all()
    if 0 < peak:
        assert factors[0] == pytest.approx(1 / div) and momenta[0] == pytest.approx(0.9)
    if peak < n - 1:
        assert factors[-1] == pytest.approx(1 / final_div) and momenta[-1] == pytest.approx(0.9)


def torch_values(make, n):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1., momentum=0.9)
    scheduler, values = make(opt), []
    for i in range(n):
        values.append((opt.param_groups[0]['lr'], opt.param_groups[0]['momentum']))
        opt.step()
        if i < n - 1:
            scheduler.step()
    return np.array(values).T


@pytest.mark.parametrize('c', [(1, 1, 1, 7), (3, 1, 2, 5), (2, 2, 3, 4), (4, 1, 1, 3)])
def test_sgdr_is_pytorchs_warm_restarts(c):
    n_cycles, cycle_len, cycle_mult, per_epoch = c
    ours = S.sgdr(*c)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    theirs = torch_values(lambda o: scheduler(o, T_0=cycle_len * per_epoch, T_mult=cycle_mult), len(ours))[0]
    assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize('n, pct, div, final_div', [(100, 0.25, 25, 1e4), (40, 0.3, 10, 1e3), (8, 0.5, 4, 4)])
def test_one_cycle_is_pytorchs_where_the_peak_falls_on_a_batch(n, pct, div, final_div):
    ours = S.one_cycle(n, pct, div, final_div)
    theirs = torch_values(lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=1., total_steps=n, pct_start=pct, div_factor=div, final_div_factor=final_div / div), n)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-12) and ours[1] == pytest.approx(theirs[1], abs=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.floats(0, 0.99))
def test_smooth_is_the_weighted_mean(losses, beta):
    ours = S.smooth(losses, beta)
    assert len(ours) == len(losses)
    for i in range(len(losses)):
        weights = beta ** np.arange(i, -1, -1.)
        assert ours[i] == pytest.approx(np.average(losses[:i + 1], weights=weights), abs=1e-7)


def test_smooth_takes_tensors_and_keeps_a_nan():
    assert S.smooth([torch.tensor(2.), torch.tensor(2.)]) == pytest.approx([2, 2])
    assert np.isnan(S.smooth([1., float('nan'), 1.])[1:]).all()


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50), st.floats(1.5, 10))
def test_diverged_is_factor_times_the_best(losses, factor):
    assert S.diverged(losses, factor) == (losses[-1] > min(losses) + (factor - 1) * min(losses))


@given(st.integers(20, 300), st.floats(0.3, 0.8), st.floats(0.01, 100))
def test_suggestions_do_not_depend_on_the_scale_of_the_loss(n, where, scale):
    lrs = S.lr_range(1e-5, 10, n)
    low = int(where * n)
    losses = np.abs(np.arange(n) - low) + 1.
    found = S.suggest_lr(lrs, scale * losses)
    assert found['minimum/10'] == pytest.approx(lrs[low] / 10)
    assert lrs[0] <= found['steepest'] <= lrs[low]
    assert S.suggest_lr(np.append(lrs, 11), np.append(scale * losses, np.nan)) == found      # the stop itself


@pytest.mark.parametrize('call, words', [
    (lambda: S.cycle_epochs(0), 'n_cycles must be at least 1, but it is 0'),
    (lambda: S.cycle_epochs(-2, 1), 'n_cycles must be at least 1'),
    (lambda: S.cycle_epochs(2, 1, 0), 'cycle_mult must be at least 1'),
    (lambda: S.cycle_epochs(2, 0), 'cycle_len must be at least 1'),
    (lambda: S.cycle_epochs(2, cycle_mult=2), 'needs a cycle to multiply'),
    (lambda: S.sgdr(1, None, 1, 3), r'constant\(\)'),
    (lambda: S.sgdr(1, 1, 1, 0), 'batches_per_epoch must be at least 1'),
    (lambda: S.constant(1, 0), 'batches_per_epoch must be at least 1'),
    (lambda: S.linear(0, 1, 0), 'n must be at least 1'),
    (lambda: S.exponential(0, 1, 5), 'above 0'),
    (lambda: S.exponential(1, float('nan'), 5), 'above 0'),
    (lambda: S.lr_range(0, 1), 'above 0'),
    (lambda: S.lr_range(1, 1), 'must climb'),
    (lambda: S.lr_range(n=19), 'too few batches.*19.*batch size 4 or 8'),
    (lambda: S.one_cycle(10, pct_start=1.1), 'share from 0 to 1'),
    (lambda: S.one_cycle(10, div=0.5), 'at least 1'),
    (lambda: S.one_cycle(10, mom=(0.9, 1.)), 'pair'),
    (lambda: S.smooth([1.], beta=1.), 'beta'),
    (lambda: S.suggest_lr([1, 2], [1]), 'one loss for each rate'),
    (lambda: S.suggest_lr(S.lr_range(), np.ones(100)), 'did not fall'),
    (lambda: S.suggest_lr(S.lr_range(), np.full(100, np.nan)), 'did not fall'),
])
def test_errors_name_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize('n', [2.0, '3', None, 1.5])
def test_counts_are_whole_numbers(n):
    with pytest.raises(TypeError, match='whole number'):
        S.constant(n, 10)


def test_numpy_integers_are_whole_numbers():
    assert len(S.sgdr(np.int64(2), np.int32(1), 1, np.int64(5))) == 10


def test_plots_draw_the_numbers():
    factors, momenta = S.one_cycle(20)
    axes = S.plot_schedule(factors, momenta, lr=0.1, batches_per_epoch=5)
    assert axes[0].lines[-1].get_ydata() == pytest.approx(0.1 * factors)
    assert axes[1].lines[-1].get_ydata() == pytest.approx(momenta)
    lrs = S.lr_range()
    cliff = np.append(np.linspace(2, 1, 99), np.inf)
    for losses in (np.abs(np.log(lrs)), np.full(100, np.nan), cliff, cliff[::-1], np.ones(100)):
        ax = S.plot_lr_find(lrs, losses)
        ax.figure.canvas.draw()
        assert ax.get_xscale() == 'log'
    plt.close('all')


def test_import_needs_neither_torch_nor_matplotlib():
    code = ("import sys; import lessondl.schedules; "
            "assert not {'torch', 'matplotlib', 'fastcore'} & set(sys.modules)")
    subprocess.run([sys.executable, '-c', code], check=True)
