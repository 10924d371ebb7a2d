"Interpretation, hooks and class activation maps where the lessons cannot test them well"

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lessondl.cnn import ConvNet, Resnet2
from lessondl.data import ImageData
from lessondl.interpret import Interpretation, SaveFeatures, class_activation_map, grad_cam, show_cam
from lessondl.learner import Learner

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close('all')


def net(c=3, pool=nn.AdaptiveAvgPool2d, channels=3, seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(body, pool(1), nn.Flatten(), nn.Linear(8, c)).eval()


def data(n=20, c=3, **kw):
    x, y = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), np.arange(n) % c
    return ImageData.from_arrays(x, y, x[:13], y[:13], list('abc')[:c], bs=5, **kw)


def learner(d=None, model=None, **kw):
    return Learner(d or data(), model or net(), precision='fp32', progress=False, **kw)


# ---- Interpretation ----------------------------------------------------------------------------------------

def fake(y, pred, c):
    "An Interpretation of given answers, by a net that only looks the answer up"
    x = np.asarray(pred, np.float32)[:, None, None].repeat(4, 1).repeat(4, 2) / 100
    d = ImageData.from_arrays(x, y, x, y, [f'c{i}' for i in range(c)], bs=3, stats=((0.,), (1.,)))

    class LookUp(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))
        def forward(self, x): return F.one_hot((x[:, 0, 0, 0] * 100).round().long(), c).float() * self.w
    return Interpretation(learner(d, LookUp()))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_confusion_matrix_counts_every_pair(draw):
    c = draw.draw(st.integers(2, 6))
    pairs = draw.draw(st.lists(st.tuples(*[st.integers(0, c - 1)] * 2), min_size=1, max_size=20))
    y, pred = map(np.array, zip(*pairs))
    interp, counts = fake(y, pred, c), np.zeros((c, c), int)
    np.add.at(counts, (y, pred), 1)
    assert (interp.confusion_matrix().numpy() == counts).all()
    shares = interp.confusion_matrix(normalize=True).sum(1).numpy()
    assert np.allclose(shares, np.isin(np.arange(c), y))    # no pictures: shares of 0, no NaN
    confused = interp.most_confused()
    assert sum(n for *_, n in confused) == (y != pred).sum()
    counted = [n for *_, n in confused]
    assert counted == sorted(counted, reverse=True)
    assert all(counts[int(a[1:]), int(b[1:])] == n and a != b for a, b, n in confused)


def test_as_scikit_learn_counts():
    metrics = pytest.importorskip('sklearn.metrics')
    y, pred = rng.integers(0, 4, (2, 50))
    interp = fake(y, pred, 4)
    assert (interp.confusion_matrix().numpy() == metrics.confusion_matrix(y, pred, labels=range(4))).all()


def test_losses_sort_where_probabilities_are_all_zero():
    interp = learner(data(c=2), net(2))
    interp.model[-1].weight.data *= 1e4      # so sure that the other class has a probability of exactly 0
    interp = Interpretation(interp)
    top = interp.top_losses(3)
    assert interp.probs[top, interp.y[top]].max() == 0 and interp.losses.isfinite().all()
    assert (interp.losses[top].diff() < 0).all()


def test_all_pictures_right_and_fewer_than_asked_for(capsys):
    interp = fake([0, 1, 2], [0, 1, 2], 3)
    assert interp.most_confused() == [] and len(interp.top_losses(9)) == 3
    assert interp.show(interp.most_sure(right=False)) == [] and 'no such picture' in capsys.readouterr().out
    assert len(interp.show(interp.most_sure(2))) == 2
    interp.plot_confusion_matrix(normalize=True)


def test_training_set_in_its_own_order_and_left_alone():
    d = data(aug='flip+crop', drop_last=True, n=23)
    epoch, order = d.train.epoch, [y.tolist() for _, y in d.train.batches(7)]
    interp = Interpretation(learner(d), 'train')
    assert len(interp) == 23 and interp.y.tolist() == d.train.y.tolist()
    assert d.train.epoch == epoch and [y.tolist() for _, y in d.train.batches(7)] == order
    plain = learner(d).get_preds(d.replace(aug='none').augmented('train'))[0]
    assert torch.allclose(interp.probs, plain, atol=1e-5)


def test_file_names_stand_above_the_pictures(tmp_path):
    for split, n in (('train', 4), ('valid', 3)):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                picture = rng.integers(0, 256, (9 + i, 12, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / split / name / f'{name}{i}.png')
    for in_memory in (True, False):
        d = ImageData.from_folder(tmp_path, size=8, bs=2, in_memory=in_memory)
        interp = Interpretation(learner(d, net(2)))
        axes = interp.show(interp.some(6))
        assert sorted(ax.get_title().split('\n')[2] for ax in axes) == sorted(interp.names)
        assert {row[0]: row[1] for row in interp.table(range(6)).rows} == {n: n[:3] for n in interp.names}
        assert interp.pictures([4])[0].shape == (8, 8, 3)
        assert Interpretation(learner(d, net(2)), 'train').names[0] == 'cat0.png'


def test_any_loader_serves_unless_it_shuffles():
    x, y = torch.randn(7, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    sets = TensorDataset(x, y)
    interp = Interpretation(learner(ImageData(sets, sets, classes=list('abc'), bs=3)))
    assert torch.equal(interp.y, y) and len(interp.pictures([6, 0])) == 2
    learn = learner(ImageData(sets, sets, classes=list('abc'), bs=3))
    with pytest.raises(ValueError, match='shuffle=False'): Interpretation(learn, 'train')
    again = Interpretation(learn, DataLoader(sets, 2))
    assert torch.allclose(again.losses, interp.losses, atol=1e-5)
    with pytest.raises(ValueError, match='have no test set'): Interpretation(learn, 'test')


@pytest.mark.parametrize('how', [
    dict(sampler=RandomSampler(range(7))),
    dict(sampler=SubsetRandomSampler(range(5))),
    dict(sampler=WeightedRandomSampler([1.] * 7, 7)),
    dict(batch_sampler=BatchSampler(RandomSampler(range(7)), 2, False)),
])
def test_a_loader_that_draws_its_order_anew_is_refused(how):
    sets = TensorDataset(torch.randn(7, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    loader = DataLoader(sets, **how)
    with pytest.raises(ValueError, match='this DataLoader shuffles'): Interpretation(learner(), loader)


@pytest.mark.parametrize('how', [dict(sampler=[6, 1]), dict(batch_sampler=[[6], [1]])])
def test_samplers_that_keep_an_order_serve(how):
    x, y = torch.randn(7, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    learn = learner()
    interp = Interpretation(learn, DataLoader(TensorDataset(x, y), **how))
    assert interp.y.tolist() == [0, 1] and np.allclose(interp.pictures([1])[0], learn.data.decode(x[[1]])[0])


def test_a_set_without_labels_is_refused():
    d = data()
    d = ImageData.from_arrays(d.train.x, d.train.y, d.valid.x, d.valid.y, test=d.valid.x)
    with pytest.raises(ValueError, match='without labels'): Interpretation(learner(d), 'test')


def test_many_labels_are_asked_about_one_by_one():
    d = data()
    y = rng.integers(0, 2, (20, 3)).astype(np.float32)
    d = ImageData.from_arrays(d.train.x, y, d.valid.x, y[:13], ['haze', 'road', 'water'], bs=5)
    learn = learner(d)
    with pytest.raises(ValueError, match='several labels'): Interpretation(learn)
    with pytest.raises(ValueError, match="'haze', 'road', 'water'"): Interpretation(learn, label='fog')
    interp, (probs, _) = Interpretation(learn, label='road'), learn.get_preds()
    assert torch.allclose(interp.probs[:, 1], probs[:, 1], atol=1e-5)
    wanted = F.binary_cross_entropy(probs[:, 1], torch.tensor(y[:13, 1]), reduction='none')
    assert torch.allclose(interp.losses, wanted, atol=1e-4)
    assert interp.confusion_matrix().sum() == 13 and interp.classes == ['not road', 'road']
    assert class_activation_map(learn, d.valid.picture(0), 1).shape == (8, 8)


# ---- hooks -------------------------------------------------------------------------------------------------

def n_hooks(model): return sum(len(m._forward_hooks) for m in model.modules())


def test_hooks_are_gone_after_an_error_also_one_in_a_wrong_call():
    model = net()
    for call in (lambda: SaveFeatures(model[0], None), lambda: SaveFeatures(model[0], 'body')):
        with pytest.raises(TypeError, match='a hook hangs on a module'): call()
    with pytest.raises(RuntimeError), SaveFeatures(*model.modules()): model(torch.zeros(1, 5, 8, 8))
    with pytest.raises(KeyboardInterrupt), SaveFeatures(model[0]): raise KeyboardInterrupt
    for f in (class_activation_map, grad_cam):
        with pytest.raises(RuntimeError): f(model, torch.zeros(5, 8, 8))
        with pytest.raises(ValueError): f(model, torch.zeros(3, 8, 8), 99)
    assert n_hooks(model) == 0


def test_saved_outputs_of_all_kinds():
    class Kinds(nn.Module):
        def forward(self, x): return {'a': (x, 'text'), 'b': [x]}
    kinds, x = Kinds(), torch.ones(2)
    with SaveFeatures(kinds) as saved: kinds(x)
    x.zero_()
    assert saved.features['b'][0].sum() == 2 and saved.features['a'][1] == 'text'
    rnn = nn.LSTM(3, 4)
    with SaveFeatures(rnn, rnn) as saved: rnn(torch.zeros(5, 1, 3))
    assert len(saved.features) == 2 and saved.features[0][0].shape == (5, 1, 4)


# ---- class activation maps ---------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(4, 9), st.integers(4, 9))
def test_its_average_is_the_logit_and_grad_cam_its_positive_part(seed, c, h, w):
    model, x = net(c, seed=seed).double(), torch.randn(3, h, w).double()
    logits = model(x[None])[0].float()
    for i in range(c):
        cam = class_activation_map(model, x, i)
        assert cam.shape == (h, w) and cam.dtype == torch.float32
        assert torch.allclose(cam.mean() + model[-1].bias[i].float(), logits[i], atol=1e-4)
        assert torch.allclose(grad_cam(model, x, i), cam.clamp(min=0) / cam.numel(), atol=1e-6)


def test_nothing_is_changed():
    model, x = net().train(), torch.randn(1, 3, 8, 8)
    model[0][0].eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    for p in model.parameters(): p.requires_grad_(False)                  # a frozen net too has a Grad-CAM
    kept = x.clone()
    with torch.no_grad(): grad_cam(model, x)
    class_activation_map(model, x)
    assert torch.equal(x, kept) and not x.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_heads_without_one_are_refused_with_the_reason_and_grad_cam_takes_them():
    x, body = torch.randn(3, 8, 8), net()[0]
    torch.manual_seed(1)
    class Both(nn.Module):
        def forward(self, f): return torch.cat([f.mean((2, 3)), f.amax((2, 3))], 1)
    heads = {'by the maximum': (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
             'maximum beside average': (Both(), nn.Linear(16, 3)),
             'flattens': (nn.Flatten(), nn.Linear(8 * 64, 3)),
             'stand AdaptiveAvgPool2d, Flatten, Linear, ReLU, Linear':
                 (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3))}
    for reason, head in heads.items():
        model = nn.Sequential(body, *head).eval()
        with pytest.raises(ValueError, match=f'{reason}.*grad_cam takes every head'):
            class_activation_map(model, x)
        assert grad_cam(model, x).shape == (8, 8)
    larger = torch.randn(3, 16, 16)
    for model in (ConvNet([3, 8, 8], 3), Resnet2([8, 16], 3)):           # these pool in forward
        with pytest.raises(ValueError, match='by the maximum'): class_activation_map(model, larger)
        assert grad_cam(model, larger).min() >= 0
    with pytest.raises(ValueError, match='more than one place'): class_activation_map(net(), x[:, :1, :1])
    dense = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    for f in (class_activation_map, grad_cam):
        with pytest.raises(ValueError, match='it needs convolutions'): f(dense, x)
    with pytest.raises(ValueError, match='one number for each class'): class_activation_map(body, x)


forms = [nn.LogSoftmax(1), nn.Softmax(1), nn.Sigmoid(), nn.Identity(), nn.Dropout(0.9)]


@pytest.mark.parametrize('last', forms)
def test_answers_of_all_forms_give_the_same_maps(last):
    model, x = net(), torch.randn(3, 8, 8)
    formed = nn.Sequential(*model, last).eval()
    for cam in (class_activation_map, grad_cam):
        assert torch.allclose(cam(formed, x, 1), cam(model, x, 1), atol=1e-5)


@pytest.mark.parametrize('last', [nn.Softmax(1), nn.Sigmoid(), nn.Identity()])
def test_a_net_that_is_very_sure_is_judged_by_its_logits(last):
    "Its probabilities are 0 and 1 whatever the pooling, so that a maximum could pass for an average"
    x = torch.randn(3, 8, 8)
    for seed in range(20):
        for pool in (nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d):
            sure = nn.Sequential(*net(pool=pool, seed=seed), last).eval()
            sure[3].weight.data *= 300
            if pool is nn.AdaptiveAvgPool2d:
                cam = class_activation_map(sure, x, 0)
                logit = sure[:4](x[None])[0, 0]
                assert torch.allclose(cam.mean() + sure[3].bias[0], logit, rtol=1e-3, atol=1e-2)
            else:
                with pytest.raises(ValueError, match='by the maximum'): class_activation_map(sure, x, 0)


def test_classes_straight_after_the_convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3),
                          nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1))
    x = torch.randn(3, 9, 9)
    with torch.no_grad(): maps = model[:4](x[None])[0]
    for i in range(4): assert torch.allclose(class_activation_map(model, x, i), maps[i], atol=1e-5)


families = 'resnet18 mobilenet_v2 densenet121 squeezenet1_1 shufflenet_v2_x0_5'.split()


@pytest.mark.parametrize('name', families)
def test_nets_of_torchvision(name):
    models = pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    model, x = models.get_model(name, weights=None).eval(), torch.randn(3, 64, 96)
    cam = class_activation_map(model, x, 5)
    by_slopes = grad_cam(model, x, 5) * cam.numel()
    assert torch.allclose(by_slopes, cam.clamp(min=0), atol=1e-3 * cam.abs().max().item())


def test_what_is_no_picture_is_refused():
    learn = learner()
    assert class_activation_map(learn, rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).shape == (8, 8)
    black = torch.zeros(3, 8, 8)
    for x in (torch.zeros(2, 3, 8, 8), black[0], black.byte(), np.zeros((8, 8, 3)), None):
        with pytest.raises(ValueError, match='picture'): class_activation_map(net(), x)
    with pytest.raises(ValueError, match='was not called'): grad_cam(net(), black, layer=nn.ReLU())


def test_show_cam_draws_above_zero_only_and_on_one_scale():
    learn = learner()
    eye = torch.eye(8)
    for cam, limit, top in ((eye - 0.5, None, 0.7), (eye - 2, None, 0.), (eye, 2., 0.35)):
        ax = show_cam(learn, learn.data.valid.picture(0), cam=lambda *_, cam=cam: cam, limit=limit)
        assert len(ax.images) == 2
        alpha = ax.images[1].get_alpha()
        assert alpha.shape == (8, 8) and alpha.max() == pytest.approx(top, abs=0.2) and alpha.min() == 0
    assert ax.get_title().split()[0] in 'abc' and show_cam(net(), torch.randn(3, 8, 8)).get_title() == ''
