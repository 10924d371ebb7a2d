"What lesson 17 exports, where its own cells do not look: saving, unusual shapes, other precisions."
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lessondl.augment import half_mirrored
from lessondl.cnn import NarrowConv2d, SpeedNet, side_by_side, whitening
from lessondl.data import ImageData
from lessondl.datasets import cifar10_standin
from lessondl.learner import (
    AlternateFlip,
    Callback,
    GrowingSize,
    Learner,
    Lookahead,
    Muon,
    Views,
    orthogonal,
    seed_everything,
)


def learner(path='models', precision='fp32', **kwargs):
    seed_everything(0)
    data = ImageData.from_arrays(*cifar10_standin(80, 20), bs=20)
    net = SpeedNet([8, 8], 10, data.one_batch()[0])
    return Learner(data, net, opt_func=Muon, groups=SpeedNet.groups, path=path, precision=precision,
                   progress=False, **kwargs)


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (5, 2, 3, 3), (40, 2, 3, 3), (18, 2, 3, 3), (4, 6)])
def test_orthogonal_keeps_directions(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, vt = torch.linalg.svd(g.flatten(1), full_matrices=False)
    values = s / s.norm()
    for _ in range(3): values = 3.4445 * values - 4.775 * values ** 3 + 2.0315 * values ** 5
    assert orthogonal(g).shape == g.shape
    torch.testing.assert_close(orthogonal(g).flatten(1), u @ torch.diag(values) @ vt, atol=1e-4, rtol=1e-3)


def test_a_gradient_of_zero_moves_no_convolution_out_of_place():
    w = nn.Parameter(torch.randn(4, 3, 3, 3))
    w.grad = torch.zeros_like(w)
    before = w.detach() * 2 / w.detach().norm()
    Muon([w]).step()
    torch.testing.assert_close(w.detach(), before)


def test_muon_goes_on_from_a_saved_state(tmp_path):
    rates, learn = [0.1, 1., 0.01], learner(tmp_path)
    learn.fit(rates, 1, wd=[0., 1e-4, 0.1])
    learn.save('half')
    state = learn.data.train.epoch
    learn.fit(rates, 1, wd=[0., 1e-4, 0.1])
    whole = weights(learn)
    again = learner(tmp_path)
    again.load('half')
    again.data.train.epoch = state
    again.fit(rates, 1, wd=[0., 1e-4, 0.1])
    for k, v in weights(again).items(): torch.testing.assert_close(v, whole[k], msg=k)


def test_the_whitening_stays_as_it_is():
    learn = learner()
    stem = learn.model.stem.weight.clone()
    learn.fit([0.1, 1., 0.01], 1)
    assert torch.equal(stem, learn.model.stem.weight) and learn.model.stem.bias.abs().max() > 0


def test_it_learns_in_bfloat16_on_growing_pictures():
    learn = learner(precision='bf16', loss_func=nn.CrossEntropyLoss(label_smoothing=0.2))
    learn.fit([0.24, 1., 0.02], 1, cycle_len=4, cbs=[AlternateFlip(), GrowingSize([(0.3, 16), (0.6, 24)])])
    losses = learn.recorder.losses
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1


def test_deep_blocks_have_three_convolutions_and_all_of_them_learn():
    seed_everything(0)
    data = ImageData.from_arrays(*cifar10_standin(80, 20), bs=20)
    x = data.one_batch()[0]
    net = SpeedNet([8, 12, 8], 10, x, deep=(0, 2))
    assert [len([m for m in b.modules() if isinstance(m, nn.Conv2d)]) for b in net.blocks] == [3, 2, 3]
    groups = net.groups()
    assert len(groups[0]) == 8 and groups[1][0] is net.stem and groups[2] == [net.out]
    grouped = {id(p) for group in groups for m in group for p in m.parameters()}
    assert grouped == {id(p) for p in net.parameters()}
    net(x).sum().backward()
    assert all(conv.weight.grad.abs().max() > 0 for conv in groups[0])
    before = {k: v.clone() for k, v in net.named_parameters() if v.requires_grad}
    Learner(data, net, opt_func=Muon, groups=SpeedNet.groups, progress=False).fit([0.1, 1., 0.01], 1)
    assert all(not torch.equal(v, before[k]) for k, v in net.named_parameters() if k in before)


@pytest.mark.parametrize('deep', [(3,), (-1, 0), ('0',)])
def test_a_deep_block_that_is_not_there_is_refused(deep):
    with pytest.raises(ValueError, match='numbers, 0 to 2'):
        SpeedNet([8, 8, 8], 10, torch.rand(4, 3, 8, 8), deep=deep)


def test_rows_that_do_not_come_out_even_are_refused():
    for k in (0, -2, 4, 7):
        with pytest.raises(ValueError, match='6 pictures cannot stand in rows'):
            side_by_side(torch.zeros(6, 1, 2, 2), k)


def test_views_of_a_model_that_sees_no_place_are_its_own_answer():
    class Mean(nn.Module):
        def forward(self, x): return F.log_softmax(x.amax((2, 3)), 1)
    x = torch.randn(3, 5, 8, 8).round()
    x[:, :, 4, 4] = 9.
    torch.testing.assert_close(Views(Mean())(x), Mean()(x))


@pytest.mark.parametrize('plan', [[(0.5, 24), (0.4, 16)], [(1.5, 24)], [(-0.1, 24)], [(0.5, 0)]])
def test_a_plan_that_cannot_be_is_refused(plan):
    with pytest.raises(ValueError, match='shares rising from 0 to 1'): GrowingSize(plan)


def test_whitening_says_what_it_takes():
    for x in (torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match='float pictures'): whitening(x)


def test_half_mirrored_is_a_copy_and_leaves_the_pictures():
    x = cifar10_standin(60, 10)[0]
    before = np.array(x)
    out = half_mirrored(x)
    assert out.dtype == x.dtype and np.array_equal(x, before) and not np.shares_memory(out, x)


@pytest.mark.parametrize('n, ni, nf, height, width', [(12, 3, 5, 7, 7), (13, 4, 4, 3, 3), (1, 2, 3, 5, 8),
                                                      (40, 8, 8, 2, 2), (6, 3, 2, 9, 1)])
@pytest.mark.parametrize('channels_last', [False, True])
def test_narrow_pictures_get_the_gradients_of_a_plain_convolution(n, ni, nf, height, width, channels_last):
    torch.manual_seed(0)
    narrow = NarrowConv2d(ni, nf)
    plain = nn.Conv2d(ni, nf, 3, padding=1, bias=False).double()
    plain.load_state_dict(narrow.state_dict())
    x = torch.randn(n, ni, height, width).bfloat16()
    grad = torch.randn(n, nf, height, width).bfloat16()
    if channels_last: x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16): out = narrow(a)
    assert type(out.grad_fn).__name__ == 'SideBySideBackward'
    out.backward(grad)
    expected = plain(b)
    expected.backward(grad.double())
    for ours, theirs in ((out, expected), (a.grad, b.grad), (narrow.weight.grad, plain.weight.grad)):
        torch.testing.assert_close(ours.double(), theirs, atol=0.02 * theirs.abs().max().item(), rtol=0)
    assert narrow.weight.grad.dtype == torch.float32


def test_wide_pictures_other_precisions_and_answers_take_the_plain_way():
    conv, x = NarrowConv2d(2, 3), torch.randn(4, 2, 5, 5)
    assert 'Convolution' in type(conv(x).grad_fn).__name__
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert 'Convolution' in type(conv(x.bfloat16().repeat(1, 1, 2, 2)).grad_fn).__name__
        with torch.no_grad(): assert conv(x.bfloat16()).grad_fn is None


def test_lookahead_follows_its_formula():
    noted = []
    class Note(Callback):
        order = 59
        def after_batch(self, learn):
            if learn.training: noted.append(learn.model.out.weight.detach().clone())
    learn, ahead = learner(), Lookahead(every=2, decay=0.9)
    slow = learn.model.out.weight.detach().clone()
    learn.fit([0.1, 1., 0.01], 1, cbs=[ahead, Note()])
    assert len(noted) == 4
    for done in (2, 4):
        keep = 0.9 ** 2 * (done / 4) ** 3
        slow = keep * slow + (1 - keep) * noted[done - 1]
    torch.testing.assert_close(learn.model.out.weight.detach(), slow)
    assert not torch.equal(slow, noted[-1])


def test_memory_can_be_kept_or_it_is_said_that_it_cannot():
    code = 'from lessondl.learner import keep_memory; print(keep_memory())'    # it lasts: not in here
    kept = subprocess.check_output([sys.executable, '-c', code], text=True).strip()
    assert kept == str(platform.libc_ver()[0] == 'glibc')


# ---- benchmarks/speedrun.py ----

@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / 'benchmarks'))
    import speedrun
    monkeypatch.setattr(speedrun, 'RESULTS', tmp_path / 'results' / 'speedrun.json')
    monkeypatch.setattr(speedrun, 'cifar10', lambda: cifar10_standin(80, 20))
    return speedrun


def test_a_row_replaces_only_one_of_the_same_set_and_machine(script, monkeypatch):
    def rows(): return [(r['data'], r['machine'], r['tta']) for r in script.load()['runs']]
    def keep(tta): script.keep('runs', dict(recipe='record', seed=0, again=0, deblock=False, tta=tta),
                               ('recipe', 'seed', 'again', 'deblock'))
    for name, tta in (('copy', 0.1), ('original', 0.2), ('copy', 0.3)):
        monkeypatch.setattr(script, 'cifar10_name', lambda x, name=name: name)
        keep(tta)
    here = script.load()['runs'][0]['machine']
    assert rows() == [('original', here, 0.2), ('copy', here, 0.3)]
    monkeypatch.setattr(script, 'machine', lambda: dict(cpu='another', cores=64))
    keep(0.4)
    assert rows()[-1] == ('copy', 'another, 64 cores', 0.4) and len(rows()) == 3
    assert set(script.load()['machines']) == {here, 'another, 64 cores'}


def test_no_filters_get_the_rate_of_adders(script):
    for name in dict(script.STEPS + script.TRIES):
        c = script.settings(name)
        if not c.get('muon'): continue
        data = script.load_data(0, 20, c['alternate'], c['pad'])
        script.some_pictures = lambda data: data.one_batch()[0]
        net = script.step_net(c | dict(layers=[8, 8, 8]), data)
        groups = script.learned_groups(net) if c['learned'] else net.groups()
        learning = [[p.ndim for m in g for p in m.parameters() if p.requires_grad] for g in groups]
        assert 4 not in learning[1] and set(learning[2]) == {2}
        assert c['learned'] == net.stem.weight.requires_grad


def test_pictures_changed_by_the_script_stay_pictures(script):
    x = np.zeros((2, 16, 16, 3), np.uint8)
    x[:, 8:] = 80
    smooth = script.deblocked(x)
    assert smooth.dtype == np.uint8 and smooth[0, 6:10, 3, 0].tolist() == [0, 20, 60, 80]
    turned = script.deblocked(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    assert np.array_equal(turned, smooth) and np.array_equal(script.jpeg_again(x, 0), x)
    pictures = cifar10_standin(8, 4)[0]
    once, twice = (script.jpeg_again(pictures, k).astype(int) for k in (1, 2))
    assert once.shape == pictures.shape and 0 < np.abs(once - pictures).mean() < 20
    assert not np.array_equal(once, twice)


def test_decoupled_decay_is_as_strong_as_what_comes_through_the_momentum(script):
    ends = []
    for kind in (Muon, script.DecoupledMuon):
        w = nn.Parameter(torch.ones(3))
        w.grad = torch.zeros(3)
        opt = kind([w], lr=0.001, other_momentum=0.85, weight_decay=0.1)
        for _ in range(2000): opt.step()
        ends.append(w.mean().item())
    plain, decoupled = (-np.log(v) for v in ends)
    assert abs(plain / decoupled - 1) < 0.02 and decoupled > 1
