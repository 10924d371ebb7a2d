"The Learner where a lesson cannot test it well: the bare loop, bad input, interruptions, broken files"

import math
import os
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lessondl.learner
from lessondl.data import ImageData
from lessondl.learner import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    EarlyStop,
    GradientClip,
    Learner,
    Progress,
    Recorder,
    SaveBest,
    StopOnNaN,
    find_precision,
    group_values,
    seed_everything,
)
from lessondl.metrics import accuracy


def batches(n=6, bs=8, seed=0, c=3):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(bs, 4, generator=g), torch.randint(c, (bs,), generator=g)) for _ in range(n)]


def data(**kw):
    return SimpleNamespace(**{'train': batches(), 'valid': batches(3, seed=1), **kw})


def net(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(body, nn.Linear(8, 3))


def learner(d=None, model=None, **kw):
    kw = {'precision': 'fp32', 'progress': False, 'metrics': [accuracy], **kw}
    return Learner(d or data(), model or net(), **kw)


def pictures(bs=16, n=64, **kw):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), np.arange(n) % 3
    return ImageData.from_arrays(x, y, x[:20], y[:20], ['a', 'b', 'c'], bs=bs, aug='flip+crop', **kw)


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def state_of(learn):
    "Everything that `lr_find` must leave alone, as bytes and numbers"
    return (
        [t.clone() for t in (*learn.model.parameters(), *learn.model.buffers())],
        [None if p.grad is None else p.grad.clone() for p in learn.model.parameters()],
        [m.training for m in learn.model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        tuple(map(str, np.random.get_state())),
        str(learn.opt and learn.opt.state_dict()),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# ---- the same work as the bare loop


@pytest.mark.parametrize(
    'opt_func', [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW, torch.optim.RMSprop]
)
def test_losses_and_weights_equal_the_bare_loop(opt_func):
    d, model = data(), net()
    opt, losses = opt_func(model.parameters(), lr=0.01), []
    model.train()
    for _ in range(2):
        for x, y in d.train:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    learn = learner(opt_func=opt_func)
    learn.fit(0.01, 2)
    assert learn.recorder.losses == losses
    assert same(list(model.parameters()), list(learn.model.parameters()))


def test_pictures_in_channels_last_and_the_bare_loop_agree():
    d, model = pictures(), conv_net()
    opt, losses = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
    model.train()
    for x, y in d.train:
        loss = F.cross_entropy(model(x.contiguous()), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    learn = learner(pictures(), conv_net())
    learn.fit(0.1, 1)
    assert learn.recorder.losses == pytest.approx(losses, rel=1e-4)


def test_one_fit_of_two_epochs_equals_two_fits_of_one():
    a, b = learner(), learner()
    torch.manual_seed(1)
    a.fit(0.05, 2)
    torch.manual_seed(1)
    b.fit(0.05, 1)
    b.fit(0.05, 1)
    assert a.recorder.losses == b.recorder.losses
    assert [e['epoch'] for e in b.recorder.epochs] == [0, 1]


NO_STEP = {'LBFGS', 'SparseAdam', 'Muon', 'Optimizer'}  # a closure, sparse gradients, matrices only


@pytest.mark.parametrize('name', sorted(n for n in dir(torch.optim) if n[0].isupper() and n not in NO_STEP))
def test_any_optimiser_of_torch(name):
    learn = learner(opt_func=getattr(torch.optim, name))
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.fit_one_cycle(1, 1e-2)
    assert not same(before, [p.detach() for p in learn.model.parameters()])
    learn.fit(1e-2, 1, wd=0.01) if 'weight_decay' in learn.opt.defaults else learn.fit(1e-2, 1)


def test_momentum_schedule_drives_momentum_or_betas_and_leaves_what_is_off():
    for opt_func, first in (
        (partial(torch.optim.SGD, momentum=0.9), 0.95),
        (torch.optim.Adam, 0.95),
        (torch.optim.SGD, 0),
    ):
        learn = learner(opt_func=opt_func)
        learn.fit_one_cycle(1, 1e-2)
        assert learn.recorder.moms[0] == first
        learn.fit(1e-2, 1)  # back to what the optimiser was made with
        assert learn.recorder.moms[-1] == (learn.opt.defaults.get('momentum') if first != 0.95 else 0.9)


def test_weight_decay_is_of_one_call():
    learn = learner(opt_func=partial(torch.optim.SGD, weight_decay=0.3), groups=list)
    for wd, want in ((0.1, [0.1, 0.1]), ([0.2, 0.5], [0.2, 0.5]), (None, [0.3, 0.3])):
        learn.fit(1e-3, 1, wd=wd)
        assert [g['weight_decay'] for g in learn.opt.param_groups] == want
    with pytest.raises(ValueError, match='wd has 3 values'):
        learn.fit(1e-3, 1, wd=[1, 2, 3])
    with pytest.raises(ValueError, match='no weight decay'):
        learner(opt_func=torch.optim.Rprop).fit(1e-3, 1, wd=0.1)


def test_the_optimiser_is_kept_until_its_parameters_change():
    learn = learner()
    learn.fit(1e-2, 1)
    opt = learn.opt
    learn.freeze()
    learn.fit(1e-2, 1)
    assert learn.opt is opt
    learn.model[1] = nn.Linear(8, 3)
    learn.fit(1e-2, 1)
    assert learn.opt is not opt
    opt, learn.opt_func = learn.opt, torch.optim.Adam
    learn.fit(1e-2, 1)
    assert isinstance(learn.opt, torch.optim.Adam)


def test_mean_loss_weighs_by_examples():
    parts = [*batches(2), *batches(1, bs=3, seed=5)]
    learn = learner(data(valid=parts))
    pred, y = learn.get_preds()
    want = F.nll_loss(pred.log(), y).item()
    assert learn.validate() == pytest.approx((want, accuracy(pred, y)), rel=1e-5)


# ---- events


def test_misspelt_events_are_refused_at_the_definition():
    for name, hint in (
        ('befor_fit', 'before_fit'),
        ('afterbatch', 'after_batch'),
        ('on_train_begin', 'before_'),
        ('on_batch_end', 'after_batch'),
        ('begin_fit', 'before_fit'),
        ('before_validation', 'before_validate'),
    ):
        with pytest.raises(TypeError, match=f'{name} would never be called: did you mean .{hint}'):
            type('Mine', (Callback,), {name: lambda self, learn: None})
    type(
        'Fine',
        (Callback,),
        {n: lambda self: None for n in ('improved', 'table', 'plot_loss', '_before', 'reset')},
    )


@pytest.mark.parametrize(
    'error, batches_done, epochs_done',
    [(CancelBatch, 10, 2), (CancelEpoch, 4, 0), (CancelFit, 2, 0), (KeyboardInterrupt, 2, 0)],
)
def test_cancelling_and_interrupting(error, batches_done, epochs_done, capsys):
    class Stop(Callback):
        cleaned = 0

        def before_step(self, learn):
            if learn.batch == 2:
                raise error

        def cleanup_fit(self, learn):
            self.cleaned += 1

    learn, stop = learner(), Stop()
    learn.fit(0.05, 2, cbs=stop)
    r = learn.recorder
    assert (
        len(r.losses) == len(r.lrs) == len(r.moms) == batches_done
        and len(r.epochs) == epochs_done
        and stop.cleaned == 1
    )
    assert ('interrupted in epoch 0, batch 2' in capsys.readouterr().out) == (error is KeyboardInterrupt)
    assert not learn.model.training and all(p.grad is None for p in learn.model.parameters())
    assert np.isfinite(learn.validate()[0])
    learn.fit(0.05, 1)  # and on


def test_every_clean_up_runs_even_when_one_fails():
    log = []

    class Bad(Callback):
        order = 90

        def cleanup_fit(self, learn):
            raise ZeroDivisionError

    class Good(Callback):
        def cleanup_fit(self, learn):
            log.append('clean')

    learn = learner()
    with pytest.raises(ZeroDivisionError):
        learn.fit(0.05, 1, cbs=[Good(), Bad()])
    assert log == ['clean'] and learn.active is None


def test_an_error_in_the_model_leaves_autocast_off():
    class Breaks(nn.Linear):
        def forward(self, x):
            raise ZeroDivisionError

    learn = learner(model=Breaks(4, 3), precision='bf16')
    for call in (lambda: learn.fit(0.1, 1), learn.validate):
        with pytest.raises(ZeroDivisionError):
            call()
        assert not torch.is_autocast_enabled('cpu')


def test_asking_from_a_callback_does_not_change_the_training():
    class Asks(Callback):
        def after_batch(self, learn):
            if learn.training:
                learn.get_preds()
                assert learn.training and learn.model.training

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    a, b = learner(model=model()), learner(model=model())
    a.fit(0.05, 1)
    b.fit(0.05, 1, cbs=Asks())
    assert same(list(a.model.parameters()), list(b.model.parameters()))

    class Fits(Callback):
        def after_epoch(self, learn):
            learn.fit(0.1, 1)

    with pytest.raises(RuntimeError, match='callback of a running fit'):
        a.fit(0.05, 1, cbs=Fits())


def test_early_stop_and_save_best(tmp_path, capsys):
    class Script(Callback):
        "Makes the validation loss what we want"

        order = 55

        def after_epoch(self, learn):
            learn.recorder.epochs[-1]['valid_loss'] = [3, 1, 2, 2, 2, 2, 2][learn.epoch]

    weights = []

    class Keep(Callback):
        order = 100

        def before_epoch(self, learn):
            weights.append(learn.model[1].weight.detach().clone())

    learn = learner(path=tmp_path)
    learn.fit(0.05, 7, cbs=[Script(), SaveBest('best'), EarlyStop(patience=3), Keep()])
    assert len(learn.recorder.epochs) == 5 and 'not improved for 3 epochs' in capsys.readouterr().out
    assert torch.equal(learn.model[1].weight, weights[2])  # as it was after the second epoch
    with pytest.raises(ValueError, match="watches 'acuracy'"):
        learn.fit(0.05, 1, cbs=EarlyStop('acuracy'))
    assert EarlyStop('accuracy').sign == 1 and EarlyStop('error_rate').sign == EarlyStop().sign == -1


def test_gradient_clip():
    class Norm(Callback):
        order, most = 100, 0.0

        def before_step(self, learn):
            self.most = max(
                self.most, torch.stack([p.grad.norm() for p in learn.model.parameters()]).norm().item()
            )

    norm = Norm()
    learner().fit(0.05, 1, cbs=[GradientClip(0.01), norm])
    assert norm.most == pytest.approx(0.01, rel=1e-3)


# ---- the finder


@pytest.mark.parametrize('fitted', [False, True])
@pytest.mark.parametrize('stop', [None, 'interrupt', 'error'])
def test_lr_find_restores_everything(fitted, stop):
    loader = DataLoader(
        TensorDataset(torch.randn(48, 4), torch.arange(48) % 3),
        8,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
    )

    class Stop(Callback):
        on = False

        def before_step(self, learn):
            random.random(), np.random.rand()
            if self.on and learn.batch == 3:
                raise KeyboardInterrupt if stop == 'interrupt' else ZeroDivisionError

    cb = Stop()
    learn = learner(data(train=loader), cbs=cb)
    if fitted:
        learn.fit(0.05, 1)
    cb.on = stop is not None
    before, draws, batches_before = (
        state_of(learn),
        loader.generator.get_state(),
        list(learn.recorder.batches),
    )
    if stop == 'error':
        with pytest.raises(ZeroDivisionError):
            learn.lr_find()
    else:
        learn.lr_find()
    assert same(before, state_of(learn)) and torch.equal(draws, loader.generator.get_state())
    assert learn.recorder.batches == batches_before and not learn.recorder.fits[1:]


def test_lr_find_leaves_the_pictures_and_the_hidden_state():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.h = conv_net(), 0

        def forward(self, x):
            self.h = self.h + 1
            self.last = x
            return self.net(x)

    d, model = pictures(), Remembers()
    learn = learner(d, model)
    learn.lr_find()
    assert model.h == 0 and not hasattr(model, 'last') and d.train.epoch == 0
    a = learner(pictures(), conv_net())
    torch.manual_seed(0)
    a.fit(0.05, 1)
    b = learner(pictures(), conv_net())
    torch.manual_seed(0)
    b.lr_find()
    b.fit(0.05, 1)
    assert a.recorder.losses == b.recorder.losses


def test_lr_find_with_few_batches_says_so(capsys):
    learn = learner()
    learn.lr_find()
    assert 'only 6 batches' in capsys.readouterr().out and len(learn.recorder.finder['losses']) <= 100
    with pytest.raises(ValueError, match='batch size 4 or 8'):
        learn.lr_find(n=5)


# ---- groups


def test_group_values():
    assert group_values(0.1, 3) == [0.1] * 3
    assert group_values(slice(1e-3), 3) == pytest.approx([1e-4, 1e-4, 1e-3])
    assert group_values(slice(1e-5, 1e-3), 3) == pytest.approx([1e-5, 1e-4, 1e-3])
    assert group_values(np.array([1.0, 2.0]), 2) == [1, 2] and group_values(torch.tensor(0.5), 2) == [
        0.5,
        0.5,
    ]
    for bad in ([1, 2, 3], slice(None), slice(1, 2, 3), slice(0, 1), -1.0, float('nan'), slice(-1),
                slice(float('nan')), slice(1e-3, float('inf')), slice(float('nan'), 1e-3), [0.1, -0.1]):
        with pytest.raises(ValueError):
            group_values(bad, 2)
    for bad in ('fast', None, ['a', 'b']):
        with pytest.raises(TypeError):
            group_values(bad, 2)


def test_groups_must_hold_every_parameter_once():
    for groups, n in ((lambda m: [m[0]], 0), (lambda m: [m[0], m], 2)):
        with pytest.raises(ValueError, match=f'is in {n} of'):
            learner(groups=groups)
    assert len(learner(groups=lambda m: [[m[0][0], m[0][1]], [m[1]]]).model) == 2


def test_freezing():
    learn = learner(groups=lambda m: [m[0][0], m[0][1], m[1]])
    live = lambda: [
        all(p.requires_grad for p in g.parameters())
        for g in (learn.model[0][0], learn.model[0][1], learn.model[1])
    ]
    for k, want in ((1, [False, True, True]), (-1, [False, False, True]), (0, [True] * 3)):
        learn.freeze_to(k)
        assert live() == want
    learn.freeze()
    assert live() == [False, False, True]
    before = learn.model[0][0].weight.detach().clone()
    learn.fit(0.1, 1, wd=0.1)  # neither gradient nor momentum nor weight decay moves what is frozen
    assert torch.equal(learn.model[0][0].weight, before)
    learn.unfreeze()
    assert live() == [True] * 3
    with pytest.raises(ValueError, match='3 layer groups'):
        learn.freeze_to(3)


def test_freeze_bn_keeps_statistics_of_the_body_only():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))
    )
    learn = learner(model=model, groups=list)
    learn.freeze_bn()
    learn.fit(0.1, 1)
    assert model[0][1].num_batches_tracked == 0 and model[1][0].num_batches_tracked == 6
    learn.freeze_bn(False)
    learn.fit(0.1, 1)
    assert model[0][1].num_batches_tracked == 6


def test_freeze_bn_holds_one_written_by_hand():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('running_mean', torch.zeros(4))
            self.register_buffer('running_var', torch.ones(4))

        def forward(self, x):
            if self.training:
                self.running_mean.lerp_(x.mean(0), 0.1)
            return x - self.running_mean

    norm = ByHand()
    learn = learner(model=nn.Sequential(norm, nn.Linear(4, 3)), groups=list)
    learn.freeze_bn()
    learn.fit(0.1, 1)
    assert not norm.running_mean.any()
    learn.freeze_bn(False)
    learn.fit(0.1, 1)
    assert norm.running_mean.any()


# ---- asking


def test_predictions_are_probabilities_in_order():
    d = pictures()
    for last in (nn.Identity(), nn.LogSoftmax(1)):
        learn = learner(d, nn.Sequential(conv_net(), last))
        probs, y = learn.get_preds()
        assert (
            probs.shape == (20, 3)
            and torch.allclose(probs.sum(1), torch.ones(20))
            and y.tolist() == [i % 3 for i in range(20)]
        )
        for i, image in enumerate(
            (d.valid.x[0], torch.tensor(d.valid.x[0]).permute(2, 0, 1), Image.fromarray(d.valid.x[0]))
        ):
            name, k, p = learn.predict(image)
            assert (
                torch.allclose(p, probs[0], atol=1e-6) and name == 'abc'[k] and k == int(probs[0].argmax())
            ), i
        assert torch.allclose(learn.predict(next(iter(d.valid))[0][0])[2], probs[0], atol=1e-6)
    with pytest.raises(ValueError, match='one picture was expected'):
        learn.predict(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match='one picture was expected'):
        learn.predict(np.zeros((8, 8, 3)))
    assert learn.predict(Image.new('L', (30, 20)))[0] in 'abc'  # any picture that Pillow opens, of any size


def test_tta_is_the_mean_of_probabilities():
    learn = learner(pictures(), conv_net())
    probs, y = learn.tta(n=3)
    again = learner(pictures(), conv_net())
    versions = [again.get_preds()[0]] + [again.get_preds(again.data.augmented('valid'))[0] for _ in range(3)]
    assert torch.allclose(probs, torch.stack(versions).mean(0), atol=1e-6) and len(y) == 20
    assert torch.equal(learn.tta(n=0)[0], learn.get_preds()[0])
    with pytest.raises(TypeError, match='augmented'):
        learner().tta()


def test_tta_of_many_labels_is_the_mean_of_sigmoids_and_not_the_sigmoid_of_the_mean():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8), rng.integers(0, 2, (32, 3))

    def new():  # large weights, so that the views of a picture disagree
        d = ImageData.from_arrays(x, y, x[:8], y[:8], list('abc'), bs=8, aug='flip+crop')
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        nn.init.normal_(model[1].weight, std=0.5)
        return learner(d, model, metrics=[])

    probs, targets = new().tta(n=3)
    again = new()
    views = [again.get_preds()[0]] + [again.get_preds(again.data.augmented('valid'))[0] for _ in range(3)]
    views = torch.stack(views).double()
    assert torch.equal(targets, torch.tensor(y[:8]).float())
    assert torch.allclose(probs.double(), views.mean(0), atol=1e-6)
    assert (probs - views.logit(eps=1e-9).mean(0).sigmoid()).abs().max() > 0.1


def test_a_test_set_without_labels_has_predictions_and_no_loss():
    x = np.zeros((5, 8, 8, 3), np.uint8)
    learn = learner(pictures(test=x), conv_net())
    probs, y = learn.get_preds('test')
    assert probs.shape == (5, 3) and y.tolist() == [-1] * 5
    with pytest.raises(ValueError, match='label -1 is out of range.*without labels'):
        learn.validate('test')
    with pytest.raises(ValueError, match='no test set'):
        learner().get_preds('test')
    with pytest.raises(ValueError, match="'train', 'valid', 'test'"):
        learn.get_preds('tset')


def test_metrics_get_probabilities_by_the_loss():
    seen = {}
    for loss, targets in (
        (F.binary_cross_entropy_with_logits, torch.rand(8, 3).round()),
        (F.mse_loss, torch.randn(8, 3)),
    ):

        def total(pred, y, loss=loss):
            seen[loss] = pred.min().item(), pred.max().item()
            return 0.0

        d = data(train=[(torch.randn(8, 4) * 50, targets)], valid=[(torch.randn(8, 4) * 50, targets)])
        learner(d, nn.Linear(4, 3), loss_func=loss, metrics=[total], path='x').validate()
    low, high = seen[F.binary_cross_entropy_with_logits]
    assert 0 <= low and high <= 1 and seen[F.mse_loss][0] < 0


# ---- many labels


def many(bs=16, n=48, **kw):
    "Batches whose targets are rows of zeros and ones; `multi` as ImageData has it"
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 4, generator=g), (torch.rand(n, 3, generator=g) < 0.4).float()
    train = list(zip(x.split(bs), y.split(bs)))
    return data(train=train, valid=train, multi=True, classes=['a', 'b', 'c'], **kw)


def test_many_labels_switch_the_loss_visibly(capsys):
    learn = learner(many(), metrics=[])
    assert learn.loss_func is F.binary_cross_entropy_with_logits and learn.to_probs is torch.sigmoid
    assert 'many labels: the loss is F.binary_cross_entropy_with_logits' in capsys.readouterr().out
    learn.set_data(many())
    assert not capsys.readouterr().out  # nothing changed, nothing said
    learn.set_data(data())
    assert learn.loss_func is F.cross_entropy and learn.get_preds()[0].sum(1).allclose(torch.ones(24))
    learn.set_data(many())
    assert learn.to_probs is torch.sigmoid and 'many labels' in capsys.readouterr().out


def test_a_loss_that_was_given_stays(capsys):
    def focal(pred, y):
        return F.binary_cross_entropy_with_logits(pred, y)

    learn = learner(many(), loss_func=focal, metrics=[])
    learn.set_data(many())
    assert learn.loss_func is focal and learn.to_probs is torch.sigmoid  # unknown, but of many labels
    assert learner(many(), loss_func=F.mse_loss, metrics=[]).to_probs(torch.tensor(7.0)) == 7
    assert learner(loss_func=focal).to_probs(torch.zeros(4)).sum() == 1
    assert not capsys.readouterr().out


def test_many_labels_train_and_predict_lists():
    from lessondl.metrics import f2

    learn = learner(many(), metrics=[f2])
    learn.fit(0.1, 2)
    assert set(learn.recorder.epochs[-1]) == {'epoch', 'train_loss', 'valid_loss', 'f2', 'seconds'}
    probs, y = learn.get_preds()
    assert probs.shape == y.shape == (48, 3) and not probs.sum(1).allclose(torch.ones(48))
    assert learn.validate()[1] == f2(probs, y)


def test_predict_of_many_labels():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8), rng.integers(0, 2, (32, 3))
    d = ImageData.from_arrays(x, y, x[:8], y[:8], list('abc'), aug='flip+crop')
    learn = learner(d, conv_net(), metrics=[])
    names, numbers, probs = learn.predict(x[0], threshold=0)
    assert (names, numbers) == (list('abc'), [0, 1, 2]) and probs.shape == (3,)
    assert torch.allclose(probs, learn.get_preds()[0][0], atol=1e-6)
    assert learn.predict(x[0], threshold=1)[:2] == ([], [])
    middle = probs.sort().values[1].item()
    assert learn.predict(x[0], threshold=middle)[1] == [int(probs.argmax())]
    mean, targets = learn.tta(n=2)
    assert mean.shape == targets.shape == (8, 3) and 0 <= mean.min() and mean.max() <= 1


@pytest.mark.parametrize(
    'y, loss, words',
    [
        (torch.ones(8, 3), F.cross_entropy, 'For many labels leave loss_func out'),
        (torch.zeros(8, 3), nn.CrossEntropyLoss(), 'do not add up to 1'),
        (torch.zeros(8).long(), F.binary_cross_entropy_with_logits, 'For one label a picture take'),
        (torch.zeros(8, 4), nn.BCEWithLogitsLoss(), 'Give the last layer 4 outputs'),
        (torch.zeros(8, 3, 1), F.binary_cross_entropy_with_logits, 'Make the two shapes equal'),
        (torch.zeros(8, 3, dtype=torch.long), F.binary_cross_entropy_with_logits, r'y.float\(\)'),
        (-torch.ones(8, 3), partial(F.binary_cross_entropy_with_logits, reduction='mean'), 'without labels'),
        (torch.full((8, 3), math.nan), F.binary_cross_entropy_with_logits, 'from 0 to 1'),
    ],
)
def test_targets_that_do_not_fit_the_loss(y, loss, words):
    d = data(train=[(torch.randn(8, 4), y)], valid=None)
    with pytest.raises(ValueError, match=words):
        learner(d, loss_func=loss, metrics=[]).fit(0.1, 1)


def test_shares_among_classes_are_no_many_labels():
    d = data(train=[(torch.randn(8, 4), torch.rand(8, 3).softmax(1))], valid=None)  # smoothed or mixed labels
    learner(d, loss_func=F.cross_entropy, metrics=[]).fit(0.1, 1)


def test_a_picture_file_is_predicted_as_validation_shows_it(tmp_path):
    rng = np.random.default_rng(0)
    for split, name in (('train', 'a'), ('train', 'b'), ('valid', 'a'), ('valid', 'b')):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(4):
            picture = Image.fromarray(rng.integers(0, 256, (30, 20 + 5 * i, 3), dtype=np.uint8))
            picture.save(tmp_path / split / name / f'{i}.png')
    d = ImageData.from_folder(tmp_path, size=8, bs=8)
    learn = learner(d, nn.Sequential(conv_net(), nn.Linear(3, 2)))
    probs, _ = learn.get_preds()
    for path in (tmp_path / 'valid/b/0.png', str(tmp_path / 'valid/b/0.png')):
        name, k, p = learn.predict(path)
        assert torch.allclose(p, probs[4], atol=1e-6) and name == 'ab'[k]
    (tmp_path / 'broken.jpg').write_text('no picture')
    with pytest.raises(ValueError, match='broken.jpg is not a picture'):
        learn.predict(tmp_path / 'broken.jpg')
    with pytest.raises(FileNotFoundError):
        learn.predict('nowhere.jpg')


def test_several_inputs_and_float64():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.l = nn.Embedding(5, 4), nn.Linear(8, 3)

        def forward(self, words, numbers):
            return self.l(torch.cat([self.e(words), numbers], 1))

    d = data(train=[((torch.randint(5, (8,)), torch.randn(8, 4).double()), torch.randint(3, (8,)))] * 3)
    d.valid = d.train
    learn = learner(d, Two())
    learn.fit(0.1, 1)
    assert learn.get_preds()[0].shape == (24, 3) and 'Embedding' in repr(learn.summary())


# ---- what does not fit


@pytest.mark.parametrize(
    'make, error, words',
    [
        (lambda: Learner(SimpleNamespace(valid=None), net()), TypeError, 'no .train'),
        (lambda: Learner(SimpleNamespace(train=[]), net()), TypeError, 'valid=None trains without'),
        (
            lambda: Learner(SimpleNamespace(train=None, valid=None), net()),
            TypeError,
            'data.train is an iterable',
        ),
        (lambda: learner(model=nn.Linear), TypeError, 'the class Linear'),
        (lambda: learner(model=lambda x: x), TypeError, 'a function'),
        (lambda: learner(model=nn.ReLU()), ValueError, 'nn.ModuleList'),
        (lambda: learner(loss_func='mse'), TypeError, 'F.cross_entropy'),
        (lambda: learner(opt_func=0.1), TypeError, 'torch.optim'),
        (lambda: learner(cbs=[Progress]), TypeError, r'Progress\(...\)'),
        (lambda: learner(cbs=[print]), TypeError, 'no Callback'),
        (lambda: learner(precision='fp16'), ValueError, "'fp32'"),
        (lambda: learner(metrics=[accuracy, accuracy]), ValueError, 'share a name'),
        (lambda: learner(metrics=['accuracy']), TypeError, "a function .* this is 'accuracy'"),
        (lambda: learner(metrics='accuracy'), TypeError, "a function .* this is 'accuracy'"),
        (lambda: learner(data(train=[])).fit(0.1, 1), ValueError, 'no batch'),
        (lambda: learner(data(train=[])).lr_find(), ValueError, 'data.train has no batch'),
        (lambda: learner(data(train=[])).fit_one_cycle(1, 0.1), ValueError, 'data.train has no batch'),
        (lambda: learner(data(train=iter(batches()))).fit(0.1, 2), ValueError, 'generator that is used up'),
        (lambda: learner(data(train=iter(batches()))).fit_one_cycle(2, 0.1), TypeError, 'no length'),
        (lambda: learner(data(train=[torch.zeros(8, 4)])).fit(0.1, 1), TypeError, 'batches'),
        (
            lambda: learner(data(train=[(torch.zeros(8, 4, dtype=torch.uint8), torch.zeros(8).long())])).fit(
                0.1, 1
            ),
            TypeError,
            'uint8',
        ),
        (
            lambda: learner(data(classes=list('abcd'))).fit(0.1, 1),
            ValueError,
            r'gives \[8, 3\].*the last layer 4 outputs',
        ),
        (lambda: learner(data(classes=list('ab'))).fit(0.1, 1), ValueError, 'the last layer 2 outputs'),
        (
            lambda: learner(data(train=batches(c=9))).fit(0.1, 1),
            ValueError,
            'label . is out of range: with 3 outputs',
        ),
        (lambda: learner(pictures(), nn.Conv2d(3, 3, 3)).fit(0.1, 1), ValueError, 'pool or flatten'),
        (
            lambda: learner(data(train=[*batches(), *batches(1, bs=1)])).fit(0.1, 1),
            ValueError,
            'batch 6 holds one example.*drop_last',
        ),
        (lambda: learner(model=net().requires_grad_(False)).fit(0.1, 1), ValueError, 'unfreeze'),
        (lambda: learner().fit(0.1, 0), ValueError, 'at least 1'),
        (lambda: learner().validate([]), ValueError, 'no batch'),
        (lambda: learner().recorder.plot_loss(), ValueError, 'call fit first'),
        (lambda: learner().recorder.plot_lr_find(), ValueError, 'lr_find'),
    ],
)
def test_what_does_not_fit_is_an_error_with_the_cure(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_labels_out_of_range_later_than_the_first_batch():
    with pytest.raises(ValueError, match='label 7 is out of range'):
        learner(data(train=[*batches(), (torch.zeros(8, 4), torch.full((8,), 7))])).fit(0.1, 1)


def test_nan_is_named_with_place_rate_and_cause():
    x, y = batches(1)[0]
    spoilt = [*batches(2), (x * float('nan'), y)]
    with pytest.raises(
        FloatingPointError, match='epoch 0, batch 2, at learning rate 0.05: the input itself holds NaN'
    ):
        learner(data(train=spoilt)).fit(0.05, 1)
    learn = learner(model=nn.Linear(4, 3))
    with pytest.raises(FloatingPointError, match='lr_find'):
        learn.fit(1e38, 3)
    assert any(isinstance(cb, StopOnNaN) for cb in learn.cbs) and learn.active is None


def test_nan_in_an_evaluation_names_the_batch():
    x, y = batches(1)[0]
    learn = learner(data(valid=[*batches(2), (x * float('nan'), y)]))
    with pytest.raises(FloatingPointError, match='loss holds NaN or infinity in batch 2 .* the input itself'):
        learn.validate()
    with pytest.raises(FloatingPointError, match='output holds NaN .* in batch 2 .* the input itself'):
        learn.get_preds()
    with torch.no_grad():
        learn.model[1].weight.fill_(float('nan'))
    for ask in (learn.validate, learn.get_preds):
        with pytest.raises(FloatingPointError, match='batch 0 of an evaluation: the weights may be'):
            ask()
    assert learn.active is None


def test_minus_infinity_is_a_probability_of_zero():
    class Barred(nn.Linear):
        def forward(self, x):
            return super().forward(x).index_fill(1, torch.tensor([2]), -float('inf'))

    probs, _ = learner(data(valid=batches(2, c=2)), Barred(4, 3)).get_preds()
    assert not probs[:, 2].any() and probs.isfinite().all()


# ---- files


def test_save_and_load_bring_back_weights_and_optimiser(tmp_path):
    a = learner(path=tmp_path, opt_func=torch.optim.Adam)
    a.fit(0.05, 1)
    path = a.save('one')
    assert path == tmp_path / 'one.pt' and os.listdir(tmp_path) == ['one.pt']
    b = learner(path=tmp_path, opt_func=torch.optim.Adam, model=net(5))
    b.load('one')
    torch.manual_seed(2)
    a.fit(0.05, 1)
    torch.manual_seed(2)
    b.fit(0.05, 1)
    assert a.recorder.losses[-6:] == b.recorder.losses  # Adam's averages came along


@pytest.mark.parametrize('crash', ['save', 'fsync', 'replace'])
def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch, crash):
    learn = learner(path=tmp_path)
    old = learn.save('one').read_bytes()
    learn.fit(0.05, 1)

    def fail(*args, **kw):
        if crash == 'save':
            args[1].write(b'half a file')
        raise OSError(28, 'No space left on device')

    owner = torch if crash == 'save' else lessondl.learner.os
    monkeypatch.setattr(owner, crash, fail)
    with pytest.raises(OSError, match=r'one\.pt could not be written .*No space.* is kept.*Make room'):
        learn.save('one')
    assert os.listdir(tmp_path) == ['one.pt'] and (tmp_path / 'one.pt').read_bytes() == old


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device that is always full is of Linux')
def test_a_full_disk_is_named(tmp_path, monkeypatch):
    learn = learner(path=tmp_path)
    old = learn.save('one').read_bytes()
    monkeypatch.setattr(lessondl.learner, 'open', lambda p, mode: open('/dev/full', mode), raising=False)
    with pytest.raises(OSError, match=r'one\.pt could not be written .*Make room'):
        learn.save('one')
    assert os.listdir(tmp_path) == ['one.pt'] and (tmp_path / 'one.pt').read_bytes() == old


def test_files_cut_anywhere_or_foreign_are_named(tmp_path):
    learn = learner(path=tmp_path)
    learn.fit(0.05, 1)
    whole, state = learn.save('one').read_bytes(), learn.validate()
    bad = tmp_path / 'bad.pt'
    pieces = [whole[:n] for n in (0, 1, 50, 1000, len(whole) // 2, len(whole) - 1)] + [
        b'a text file',
        bytes(100),
    ]
    for piece in pieces:
        bad.write_bytes(piece)
        with pytest.raises(ValueError, match=r'bad.pt .*cannot be read'):
            learn.load('bad')
    torch.save(learn.model.state_dict(), bad)
    with pytest.raises(ValueError, match='not written by learn.save'):
        learn.load('bad')
    torch.save({'format': lessondl.learner.FORMAT, 'model': print}, bad)  # code in a file is not run
    with pytest.raises(ValueError, match='cannot be read'):
        learn.load('bad')
    with pytest.raises(FileNotFoundError, match='saved in .*: bad, one'):
        learn.load('two')
    assert learn.validate() == state


def test_a_file_of_another_model_or_optimiser_changes_nothing(tmp_path):
    learner(path=tmp_path, model=nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))).save('other')
    wide = net()
    wide[1] = nn.Linear(8, 5)
    learner(path=tmp_path, model=wide).save('wide')
    learn = learner(path=tmp_path)
    before = state_of(learn)
    with pytest.raises(ValueError, match='lacks 0.0.weight'):
        learn.load('other')
    with pytest.raises(ValueError, match=r'1.weight is \[5, 8\] in the file, but \[3, 8\]'):
        learn.load('wide')
    adam = learner(path=tmp_path, opt_func=torch.optim.Adam)
    adam.fit(0.01, 1)
    adam.save('adam')
    with pytest.raises(ValueError, match='another optimiser, Adam.*with_opt=False'):
        learn.load('adam')
    assert same(before[0], state_of(learn)[0])
    learn.load('adam', with_opt=False)
    assert torch.equal(learn.model[1].weight, adam.model[1].weight)


# ---- tables, precision, seeds


def test_progress_prints_one_line_an_epoch(capsys):
    learn = learner(progress=True)
    learn.fit(0.05, 3)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split() == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'seconds'] and len(lines) == 4
    )
    learn.lr_find()
    learn.validate()
    assert 'train_loss' not in capsys.readouterr().out


def test_progress_in_a_notebook_keeps_one_output_and_takes_the_bar_away(monkeypatch):
    shown = []

    class Handle:
        def update(self, output, raw):
            shown.append(output)

    def display(output, raw, display_id):
        shown.append(output)
        return Handle()

    ipython = pytest.importorskip('IPython.display')
    monkeypatch.setattr(ipython, 'display', display)
    monkeypatch.setattr(lessondl.learner, 'in_notebook', lambda: True)
    learn = learner(progress=True)
    learn.fit(0.05, 3)  # quick: the table after each epoch, and at the end without a bar
    assert len(shown) == 4
    assert 'batch 6 of 18' in shown[0]['text/plain'] and '<progress' in shown[0]['text/html']
    assert '<progress' not in shown[-1]['text/html'] and shown[-1]['text/html'].count('<tr>') == 4
    assert len(shown[-1]['text/plain'].splitlines()) == 4
    learn.validate()  # quick and without a table: leaves nothing behind
    assert len(shown) == 4
    monkeypatch.setattr(Progress, 'every', -9)  # as if each batch took long
    learn.validate()
    assert 'batch 1 of 3' in shown[4]['text/plain'] and shown[-1] == {'text/plain': ''}


def test_summary_counts_and_leaves_no_trace():
    d = pictures()
    learn = learner(d, conv_net())
    before = state_of(learn)
    text = repr(learn.summary())
    assert (
        '[16, 4, 6, 6]' in text and f'{sum(p.numel() for p in learn.model.parameters()):,} parameters' in text
    )
    assert same(before, state_of(learn)) and not learn.model[0]._forward_hooks
    assert 'Recorder' in text and '<table>' in learn.summary()._repr_html_()


def test_precision_is_found_out(monkeypatch):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert find_precision() == 'fp32' and Learner(data(), net()).precision == 'fp32'
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: True, raising=False)
    assert find_precision() == 'bf16'
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert find_precision() == 'fp32'  # a PyTorch without these questions


def test_bf16_stays_near_fp32_and_gives_float32():
    a, b = learner(), learner(precision='bf16')
    torch.manual_seed(0)
    a.fit(0.05, 2)
    torch.manual_seed(0)
    b.fit(0.05, 2)
    assert b.get_preds()[0].dtype == b.loss.dtype == torch.float32
    assert (
        b.recorder.losses == pytest.approx(a.recorder.losses, abs=0.1)
        and b.recorder.losses != a.recorder.losses
    )


def test_seed_everything():
    draws = []
    for _ in range(2):
        seed_everything(7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def test_an_own_recorder_takes_the_place_of_the_shipped_one():
    own = Recorder()
    learn = learner(cbs=own)
    assert learn.recorder is own and sum(isinstance(cb, Recorder) for cb in learn.cbs) == 1


def test_a_kind_of_recorder_takes_its_place_too():
    class Own(Recorder):
        pass

    own = Own()
    learn = learner(cbs=own)
    assert learn.recorder is own and sum(isinstance(cb, Recorder) for cb in learn.cbs) == 1


def test_the_best_is_loaded_after_a_fit_and_not_after_a_question(tmp_path):
    learn = learner(cbs=SaveBest('best'), path=tmp_path)
    learn.validate()  # before any fit
    learn.save('start')
    start = learn.validate()
    learn.fit(0.05, 3)
    learn.load('start')
    assert learn.validate() == learn.validate() == start


def test_the_best_rmse_is_the_lowest(tmp_path):
    values = iter([2.0, 1.0, 3.0])

    def rmse(pred, y):
        return next(values)

    learn = learner(metrics=[rmse], path=tmp_path)
    watch = SaveBest('best', 'rmse')
    kept = []
    watch.after_epoch = lambda learn, check=watch.after_epoch: (check(learn), kept.append(watch.best))
    learn.fit(0.05, 3, cbs=watch)
    assert kept == [-2.0, -1.0, -1.0]


@pytest.mark.parametrize('major', [7, 8])
def test_a_card_that_only_emulates_bf16_takes_fp32(monkeypatch, major):
    class Current:
        def __init__(self, device):
            assert str(device) == 'cuda:1'

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device', Current)
    supported = lambda including_emulation=True: including_emulation or major > 7
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', supported)
    assert find_precision('cuda:1') == ('bf16' if major > 7 else 'fp32')


def test_names_in_a_table_are_text_and_no_html():
    table = lessondl.learner.Table(['<lambda>'], [['<img src=x>.jpg']], note='a < b')
    page = table._repr_html_()
    assert '&lt;lambda&gt;' in page and '&lt;img' in page and 'a &lt; b' in page and '<img' not in page
