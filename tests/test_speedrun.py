"What lesson 17 exports, where its own cells do not look: saving, unusual shapes, other precisions."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lessondl.augment import half_mirrored
from lessondl.cnn import SpeedNet, whitening
from lessondl.data import ImageData
from lessondl.datasets import cifar10_standin
from lessondl.learner import AlternateFlip, GrowingSize, Learner, Muon, Views, orthogonal, seed_everything


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
