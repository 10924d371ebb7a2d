"The library on a device of its own memory: nothing is forgotten on the processor, and the sums are the same"
import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pretend_card
import pytest
import torch
from torch import nn

from lessondl import rnn
from lessondl.data import ImageData
from lessondl.datasets import cifar10_standin
from lessondl.explore import explore_html
from lessondl.interpret import Interpretation, class_activation_map, grad_cam
from lessondl.learner import Learner, SaveBest, seed_everything
from lessondl.metrics import accuracy
from lessondl.spreadsheet import to_spreadsheet
from lessondl.tabular import TabularData, TabularModel
from lessondl.trace import trace
from lessondl.transfer import vision_learner

pretend_card.install()          # here, before any test of this process calls `backward`
DEVICES = 'cpu', 'card'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def on(device, model): return {t.device.type for t in [*model.parameters(), *model.buffers()]} == {device}


def pictures(**kwargs): return ImageData.from_arrays(*cifar10_standin(60, 20), bs=20, **kwargs)


def net():
    seed_everything(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 10))


def learner(device, path='models', data=None, **kwargs):
    return Learner(data or pictures(), net(), metrics=[accuracy], path=path, precision='fp32', device=device,
                   progress=False, **kwargs)


def test_the_card_keeps_to_itself():
    a, b = torch.ones(3, device='card'), torch.ones(3)
    with pytest.raises(RuntimeError, match='some tensors are on the card and some on the processor'): a + b
    with pytest.raises(RuntimeError, match='some on the processor'): nn.Linear(3, 2).to('card')(b)
    assert (a + b.to('card')).device.type == 'card' and (a.cpu() + b).tolist() == [2, 2, 2]
    assert (a * torch.tensor(2.)).sum().item() == 6


def test_autocast_lowers_products_and_computes_losses_in_full():
    conv, x = nn.Conv2d(3, 4, 3).to('card'), torch.randn(2, 3, 8, 8).to('card')
    with torch.autocast('card', dtype=torch.bfloat16):
        out = conv(x)
        loss = nn.functional.cross_entropy(out.flatten(1), torch.tensor([0, 1]).to('card'))
    assert out.dtype == torch.bfloat16 and loss.dtype == torch.float32 and conv(x).dtype == torch.float32
    loss.backward()
    assert conv.weight.grad.dtype == torch.float32 and conv.weight.grad.device.type == 'card'


def test_a_session_with_the_learner(tmp_path):
    ends = []
    for device in DEVICES:
        learn = learner(device, tmp_path / device, pictures(aug='flip+crop', test=cifar10_standin(60, 20)[2]))
        assert on(device, learn.model)
        learn.lr_find(n=20)
        learn.fit_one_cycle(2, 0.1, cbs=[SaveBest()])
        learn.save('end')
        assert on(device, learn.model)
        picture = np.asarray(learn.data.valid.x[0])
        ends.append([learn.recorder.losses, learn.validate(), learn.get_preds()[0], learn.tta()[0],
                     learn.get_preds('test')[0], torch.tensor(learn.predict(picture)[1])])
    torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-4)


def test_weights_go_from_the_card_to_the_processor_and_back(tmp_path):
    trained = learner('card', tmp_path)
    trained.fit(0.1, 1)
    trained.save('there')
    here = learner('cpu', tmp_path)
    here.load('there')
    torch.testing.assert_close(here.validate(), trained.validate())
    here.data.train.epoch = trained.data.train.epoch        # the same draws
    here.fit(0.1, 1)                                        # with the optimiser's state
    trained.fit(0.1, 1)
    torch.testing.assert_close(here.validate(), trained.validate(), atol=1e-4, rtol=1e-4)
    here.save('back')
    trained.load('back')
    assert on('card', trained.model)
    torch.testing.assert_close(here.validate(), trained.validate())


def test_interpretation():
    learns = [learner(device) for device in DEVICES]
    x = torch.as_tensor(learns[0].data.one_batch()[0][0])
    ways = [lambda l: Interpretation(l).probs, lambda l: Interpretation(l).losses,
            lambda l: class_activation_map(l, x, 3), lambda l: grad_cam(l, x, 3, l.model[0])]
    for way in ways:
        torch.testing.assert_close(*(torch.as_tensor(way(l)) for l in learns), atol=1e-5, rtol=1e-4)


def test_transfer(tmp_path):
    ends = []
    for device in DEVICES:
        seed_everything(0)
        learn = vision_learner(pictures(), device=device, path=tmp_path, precision='fp32', progress=False)
        learn.precompute = True
        learn.fit_one_cycle(1, 0.01)
        learn.precompute = False
        learn.unfreeze()
        learn.fit([1e-4, 1e-3, 1e-2], 1)
        assert on(device, learn.model)
        ends.append([*learn.validate(), learn.recorder.losses])
    torch.testing.assert_close(*ends, atol=1e-3, rtol=1e-3)


def test_tables():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'shop': rng.integers(0, 4, 60).astype(str), 'metres': rng.normal(size=60),
                       'sales': rng.uniform(1, 9, 60)})
    ends = []
    for device in DEVICES:
        data = TabularData.from_frame(df, 'sales', ['shop'], ['metres'], valid=range(40, 60), bs=8)
        seed_everything(0)
        learn = Learner(data, TabularModel(data.prep.sizes, 1, 1, [8]), nn.functional.mse_loss, device=device,
                        progress=False, precision='fp32')
        learn.fit(1e-2, 1)
        ends.append([learn.validate(), learn.get_preds()[0]])
    torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-4)


def test_text():
    ends, text = [], 'the cat sat on the mat. ' * 40
    for device in DEVICES:
        data = rnn.TextData(text, bs=4, bptt=8)
        seed_everything(0)
        model = rnn.CharSeqStatefulRnn2(len(data.vocab), 8, 16)
        learn = Learner(data, model, device=device, progress=False, precision='fp32')
        learn.fit(1e-2, 1)
        ends.append([learn.validate(), rnn.generate(model, data.vocab, 'the ', 20, temperature=0)])
    torch.testing.assert_close(*(e[0] for e in ends), atol=1e-4, rtol=1e-4)
    assert ends[0][1] == ends[1][1]


def test_opened_nets_are_brought_to_the_processor(tmp_path):
    model, x = net().eval(), torch.randn(1, 3, 8, 8)
    there = copy.deepcopy(model).to('card')
    output = trace(model, x).output
    for given in (x, x.to('card')):
        torch.testing.assert_close(trace(there, given).output, output)
        explore_html(there, given, path=tmp_path / 'net.html')
        to_spreadsheet(there, given, path=tmp_path / 'net.xlsx')
    assert on('card', there)
    assert all((tmp_path / f'net.{kind}').stat().st_size > 5000 for kind in ('html', 'xlsx'))


# ---- benchmarks/speedrun.py ----

@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / 'benchmarks'))
    import speedrun
    monkeypatch.setattr(speedrun, 'cifar10', lambda: cifar10_standin(120, 40))
    monkeypatch.setattr(speedrun, 'keep_memory', lambda: None)             # it would last
    monkeypatch.setattr('lessondl.learner.find_precision', lambda device: 'fp32')
    return speedrun


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_the_record_recipe_is_the_same_script_on_a_card(script, monkeypatch, capsys, precision):
    monkeypatch.setattr('lessondl.learner.find_precision', lambda device: precision)
    monkeypatch.setitem(script.RECIPES, 'record', script.RECIPES['record'] | dict(epochs=2, batch=40))
    here, there = (script.recipe('record', 0, device) for device in DEVICES)
    assert ('no bf16 on this card: computing in fp32' in capsys.readouterr().out) == (precision == 'fp32')
    assert here['precision'] == there['precision'] == precision and len(here['losses']) == 2
    assert np.allclose(here['losses'], there['losses'], atol=2e-3 if precision == 'fp32' else 0.05)
    assert abs(here['tta'] - there['tta']) <= (0.03 if precision == 'fp32' else 0.1)    # of 40 pictures


@pytest.mark.parametrize('name', ['Resnet2, cosine descent from 0.01', 'one cycle to 0.05', 'Lookahead',
                                  'decoupled weight decay', 'channels first'])
def test_steps_and_tries_run_on_a_card(script, monkeypatch, name):
    c = script.settings(name) | dict(epochs=1, bs=40, layers=[8, 16, 16])
    monkeypatch.setattr(script, 'settings', lambda name: c)
    here, there = (script.step(name, 0, device) for device in DEVICES)
    assert abs(here['tta'] - there['tta']) <= 0.03 and 0 < there['accuracy'] < 1
