"Transfer: what lesson 11 cannot show: more architectures, downloads, caches, damaged files, bad input."
import os
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lessondl.data import ImageData
from lessondl.datasets import cache_root, cifar10_standin, cifar10_stats
from lessondl.learner import Callback
from lessondl.transfer import (
    VisionLearner,
    body_groups,
    content_key,
    cut_body,
    find_body,
    make_head,
    read_features,
    resnet2_body,
    resnet2_cifar10,
    torchvision_net,
    vision_learner,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('LOCALAPPDATA', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture(scope='module')
def arrays():
    return cifar10_standin(48, 24)


def data_of(arrays, **kwargs):
    return ImageData.from_arrays(*arrays, **{'size': 32, 'bs': 16, 'test': arrays[2], **kwargs})


def learner(data, tmp_path, **kwargs):
    torch.manual_seed(0)
    own = {'path': tmp_path / 'models', 'progress': False, 'precision': 'fp32', **kwargs}
    return vision_learner(data, **own)


def stored():
    return sorted((cache_root() / 'features').glob('*.pt'))


# ---- cutting ----

shapes = {'resnet18': 512, 'mobilenet_v3_small': 576, 'efficientnet_b0': 1280, 'densenet121': 1024,
          'vgg11_bn': 512, 'convnext_tiny': 768, 'squeezenet1_1': 512, 'shufflenet_v2_x0_5': 1024,
          'mnasnet0_5': 1280, 'regnet_y_400mf': 440}


@pytest.mark.parametrize('name', shapes)
def test_architectures(name, arrays, monkeypatch):
    pytest.importorskip('torchvision')
    from torchvision import models
    for init in ('kaiming_normal_', 'trunc_normal_', 'normal_'):    # millions of them take seconds
        monkeypatch.setattr(nn.init, init, lambda w, *args, **kwargs: w.data.uniform_(-.05, .05))
    net = models.get_model(name, weights=None)
    body = find_body(net)
    with torch.no_grad():
        maps = body.eval()(torch.rand(1, 3, 64, 64))
    assert maps.ndim == 4 and maps.shape[1] == shapes[name]
    learn = vision_learner(data_of(arrays, size=64), net, stats=cifar10_stats, progress=False)
    first, second, head = body_groups(learn.model)
    assert all(any(list(m.parameters()) for m in group) for group in (first, second)) and head == [learn.head]
    groups = [{p for m in g for p in m.parameters()} for g in (first, second, head)]
    assert sum(map(len, groups)) == len(list(learn.model.parameters())) == len(set.union(*groups))


def test_the_body_makes_the_maps_of_the_net():
    models = pytest.importorskip('torchvision.models')
    net = models.densenet121(weights=None).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours = net.classifier(find_body(net)(x).mean((2, 3)))
        assert torch.allclose(ours, net(x), atol=1e-5)


def test_nets_that_cannot_be_cut_say_how():
    class Between(nn.Sequential):
        def forward(self, x): return self[2](self[1](self[0](x)[:, :4]).mean((2, 3)))
    between = Between(nn.Conv2d(3, 8, 3, 4), nn.Conv2d(4, 8, 3, 4), nn.Linear(8, 2))
    for net in (between, nn.Linear(3, 3), nn.Sequential(nn.Flatten(), nn.Linear(9, 2))):
        with pytest.raises(ValueError, match='Give the cut: cut=k'): find_body(net)


def test_parts_on_a_shelf_are_found():
    net = resnet2_cifar10().eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(): assert torch.allclose(find_body(net)(x), resnet2_body(net)(x), atol=1e-5)


def test_a_cut_counts_no_shelf_as_a_layer():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.named = nn.Conv2d(3, 8, 3), nn.ModuleDict({'second': nn.Conv2d(8, 4, 3)})
        def forward(self, x): return self.named['second'](self.first(x)).mean((2, 3))
    assert cut_body(Named(), 1)(torch.rand(1, 3, 8, 8)).shape == (1, 8, 6, 6)
    assert cut_body(resnet2_cifar10(False), 1)(torch.rand(1, 3, 32, 32)).shape == (1, 16, 32, 32)
    with pytest.raises(ValueError, match="'named' of Named is a ModuleDict"): cut_body(Named(), 2)


@pytest.mark.parametrize('name', ['maxvit_t', 'swin_t', 'vit_b_16'])
def test_transformers_are_cut_before_what_their_classifier_reads(name):
    models = pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    net = models.get_model(name, weights=None).eval()
    heads = {'maxvit_t': 'classifier', 'swin_t': 'head', 'vit_b_16': 'heads'}[name]
    body, x = find_body(net), torch.rand(1, 3, 224, 224)
    setattr(net, heads, nn.Identity())                     # what is left is what the classifier would read
    with torch.no_grad(): read, maps = net(x), body(x)
    if read.ndim == 2: maps = maps.mean((2, 3))
    assert torch.allclose(maps, read, atol=1e-4)


def test_a_vision_transformer_learns_with_its_own_groups(arrays, tmp_path):
    models = pytest.importorskip('torchvision.models')
    vit = models.VisionTransformer(32, 8, 4, 2, 48, 64)
    learn = learner(data_of(arrays), tmp_path, arch=vit, stats=cifar10_stats)
    learn.precompute = True
    learn.fit(1e-3, 1)
    learn.precompute = False
    learn.unfreeze()
    before = vit.conv_proj.weight.detach().clone()
    learn.fit(slice(1e-4, 1e-2), 1)
    assert not torch.equal(before, vit.conv_proj.weight) and len(learn.groups(learn.model)) == 3
    learn.set_data(data_of(arrays).replace(size=48))
    with pytest.raises(ValueError, match='size=32'): learn.fit(1e-3, 1)


def test_a_transformer_with_a_cut_of_its_own(arrays, tmp_path):
    models = pytest.importorskip('torchvision.models')
    vit = models.VisionTransformer(32, 8, 1, 2, 48, 64)

    class Patches(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            x = self.net._process_input(x)
            x = self.net.encoder(torch.cat([self.net.class_token.expand(len(x), -1, -1), x], 1))
            return x[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    learn = learner(data_of(arrays), tmp_path, arch=vit, cut=Patches, stats=cifar10_stats)
    learn.precompute = True
    learn.fit(1e-3, 1)
    assert learn.head[1].num_features == 96


def test_the_shipped_body():
    assert Path(find_weights()).stat().st_size <= 4_000_000
    net, again = resnet2_cifar10(), resnet2_cifar10()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    assert all(w.dtype != torch.float16 for w in net.state_dict().values())
    assert not torch.equal(net.out.weight, resnet2_cifar10(pretrained=False).out.weight)
    assert list(resnet2_body(net).eval()(torch.zeros(1, 3, 40, 56)).shape) == [1, 256, 3, 4]


def find_weights():
    import lessondl
    return Path(lessondl.__file__).parent / 'resnet2_cifar10.safetensors'


# ---- torchvision's weights ----

def test_no_network(tmp_path, monkeypatch):
    pytest.importorskip('torchvision')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    def fails(*args, **kwargs): raise urllib.error.URLError('no route to host')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fails)
    with pytest.raises(OSError) as e: torchvision_net('squeezenet1_1')
    for words in ('no route to host', 'https://', str(tmp_path), 'resnet2_cifar10', 'pretrained=False'):
        assert words in str(e.value)


def test_a_download_is_checked_and_used(tmp_path, monkeypatch):
    "A stand-in for the download writes weights; a file that was cut off is told as such"
    models = pytest.importorskip('torchvision.models')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    weights = models.squeezenet1_1(weights=None).state_dict()
    asked = []

    def download(url, file, hash_prefix=None, progress=True):
        asked.append((url, hash_prefix, progress))
        torch.save(weights, file)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    net, stats = torchvision_net('squeezenet1_1')
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), weights.values()))
    (url, prefix, progress), = asked
    assert prefix and prefix in url and progress                       # with a checksum, with a bar
    file, = (tmp_path / 'checkpoints').iterdir()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(OSError, match='could not be downloaded or read'): torchvision_net('squeezenet1_1')


def test_old_nets_that_normalise_by_themselves(monkeypatch):
    models = pytest.importorskip('torchvision.models')
    own = models.googlenet(weights=None, transform_input=True, init_weights=False, aux_logits=False)
    monkeypatch.setattr(models, 'get_model', lambda name, weights: own)
    net, stats = torchvision_net('googlenet')
    assert stats == ((.5,) * 3, (.5,) * 3) and not net.transform_input
    assert find_body(net)(torch.rand(1, 3, 64, 64)).shape[1] == 1024


# ---- frozen, groups ----

def state(module): return {k: v.clone() for k, v in module.state_dict().items()}
def same(a, b): return all(torch.equal(a[k], b[k]) for k in a)


def test_frozen_groups_do_not_change_in_any_way(arrays, tmp_path):
    learn = learner(data_of(arrays), tmp_path)
    before = state(learn.body)
    learn.fit(1e-2, 1)
    assert same(before, state(learn.body))
    learn.freeze_to(1)
    learn.fit(1e-2, 1)
    after = state(learn.body)
    moved = {k.split('.')[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {'3', '4'}
    learn.unfreeze(); learn.freeze_bn()
    learn.fit(1e-2, 1)
    now = state(learn.body)
    norms = [k for k in now if 'running' in k]
    assert all(torch.equal(now[k], after[k]) for k in norms) and not same(after, now)
    learn.freeze_bn(False); learn.fit(1e-2, 1)
    assert not any(torch.equal(now[k], learn.body.state_dict()[k]) for k in norms)


def test_a_dropout_between_learning_layers_drops(arrays, tmp_path):
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Dropout(0.5), nn.Conv2d(4, 8, 3, 2), nn.ReLU())
    learn = vision_learner(data_of(arrays), nn.Sequential(body, nn.Flatten()), cut=1, stats=cifar10_stats,
                           path=tmp_path, progress=False)
    drop = next(m for m in learn.body.modules() if isinstance(m, nn.Dropout))
    learn.mode(training=True)
    assert not drop.training                # its layer group is frozen
    learn.unfreeze(); learn.mode(training=True)
    assert drop.training


def test_set_data_normalises(arrays, tmp_path):
    learn = learner(data_of(arrays), tmp_path)
    learn.set_data(data_of(arrays, size=48))
    assert learn.data.stats == cifar10_stats and learn.data.size == 48
    learn.fit(1e-2, 1)
    mine = [(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))]
    learn.set_data(ImageData(mine, mine, classes=arrays[4]))           # own loaders are taken as they are
    learn.fit(1e-2, 1)
    with pytest.raises(TypeError, match="from_... methods"): learn.precompute = True


# ---- precompute ----

def test_features_are_the_heads_inputs(arrays, tmp_path):
    cam_head = nn.Sequential(nn.Conv2d(256, 10, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for kwargs in ({}, {'concat_pool': False}, {'custom_head': cam_head}):
        learn = learner(data_of(arrays, aug='flip+crop'), tmp_path, **kwargs)
        noted = []
        learn.back[0].register_forward_hook(lambda m, args, out: noted.append(args[0].clone()))    # noqa: B023
        plain, _ = learn.get_preds('valid')
        learn.precompute = True
        stored_probs, _ = learn.get_preds('valid')
        half = len(noted) // 2
        assert torch.equal(torch.cat(noted[:half]), torch.cat(noted[half:]))
        assert torch.equal(plain, stored_probs)
        assert len(learn.features['train']) == len(learn.data.train)
        learn.fit(1e-3, 1)


def test_training_is_the_same_as_on_pictures(arrays, tmp_path):
    "In one order, without dropout, the head learns the same with features and without"
    weights = []
    for on in (False, True):
        data = data_of(arrays)
        learn = learner(data, tmp_path, ps=0.)
        learn.precompute = on
        train = learn.features['train'] if on else data.train
        train.shuffle = False
        if not on: learn.data.train.shuffle = False
        learn.fit(1e-2, 2)
        weights.append(state(learn.head))
    assert all(torch.allclose(weights[0][k].float(), weights[1][k].float(), atol=1e-4) for k in weights[0])


def test_the_cache_is_used_and_never_a_wrong_one(arrays, tmp_path, monkeypatch):
    ran = []
    evaluate = VisionLearner.evaluate
    def counted(self, *args, **kwargs):
        ran.append(1)
        return evaluate(self, *args, **kwargs)
    monkeypatch.setattr(VisionLearner, 'evaluate', counted)

    def runs(data=None, **kwargs):
        learn = learner(data or data_of(arrays), tmp_path, **kwargs)
        ran.clear()
        learn.precompute = True
        return len(ran)

    assert runs() == 2 and runs() == 0 and len(stored()) == 2
    assert runs(ps=0.1) == 0                                            # the features do not depend on it
    assert runs(data_of(arrays, aug='flip+crop', bs=8, seed=5)) == 0    # nor on order and augmentation
    assert runs(concat_pool=False) == 2 and runs(data_of(arrays, size=48)) == 2
    assert runs(pretrained=False) == 2
    changed = (arrays[0].copy(), *arrays[1:])
    changed[0][7, 3, 3, 1] ^= 1                                         # one pixel of one picture
    assert runs(data_of(changed)) == 1
    relabelled = (arrays[0], (arrays[1] + 1) % 10, *arrays[2:])
    learn = learner(data_of(relabelled), tmp_path)
    learn.precompute = True
    assert learn.features['train'].y.tolist() == relabelled[1].tolist()  # old features, new labels


def test_damaged_features_are_made_anew(arrays, tmp_path):
    learn = learner(data_of(arrays), tmp_path)
    learn.precompute = True
    right = learn.features['train'].x.clone()
    for damage in (lambda b: b[:len(b) // 2], lambda b: b'', lambda b: b[:-3000] + bytes(2000) + b[-1000:]):
        for file in stored():
            file.write_bytes(damage(file.read_bytes()))
            assert read_features(file) is None
        learn.precompute = True
        assert torch.equal(learn.features['train'].x, right)
        assert all(read_features(file) is not None for file in stored())


def test_a_cache_that_cannot_be_written_costs_only_a_line(arrays, tmp_path, cache, capsys):
    cache.write_text('a file, where a folder should be')
    learn = learner(data_of(arrays), tmp_path)
    learn.precompute = True
    learn.fit(1e-2, 1)
    assert 'stay in memory alone' in capsys.readouterr().out


def test_nets_that_differ_only_in_forward_have_other_keys(arrays):
    class Net(nn.Sequential): pass
    class Twice(nn.Sequential):
        def forward(self, x): return super().forward(x) * 2
    Twice.__name__ = Twice.__qualname__ = 'Net'
    layers = nn.Conv2d(3, 4, 3), nn.ReLU()
    loader = data_of(arrays).valid
    assert content_key(Net(*layers), loader, 32, 'fp32') != content_key(Twice(*layers), loader, 32, 'fp32')


def test_precompute_with_a_test_set_tta_predict_lr_find(arrays, tmp_path):
    data = data_of(arrays, aug='flip+crop')
    learn = learner(data, tmp_path)
    learn.precompute = True
    learn.fit(1e-2, 1)
    assert learn.get_preds('test')[0].shape == (24, 10) and learn.tta(n=2)[0].shape == (24, 10)
    assert learn.predict(arrays[2][0])[0] in data.classes
    before = torch.get_rng_state(), state(learn.model)
    learn.lr_find(n=20)
    assert torch.equal(before[0], torch.get_rng_state()) and same(before[1], state(learn.model))
    assert learn.data.train is not learn.features['train']              # the data stay the pictures
    with pytest.raises(ValueError, match='precompute = False first'): learn.unfreeze()
    assert not any(p.requires_grad for p in learn.body.parameters())
    learn.freeze(); learn.freeze_to(2)


def test_features_follow_load_and_set_data(arrays, tmp_path):
    learn = learner(data_of(arrays), tmp_path)
    learn.save('first')
    learn.unfreeze(); learn.fit(1e-2, 1); learn.freeze()
    learn.precompute = True
    tuned = learn.features['valid'].x
    learn.save('second')                                     # the whole model, while precompute is on
    learn.load('first')
    assert not torch.equal(learn.features['valid'].x, tuned)
    learn.load('second')
    assert torch.equal(learn.features['valid'].x, tuned)
    learn.set_data(data_of(arrays, size=48))
    assert not torch.equal(learn.features['valid'].x, tuned)
    fresh = learner(data_of(arrays, size=48), tmp_path)
    fresh.load('second', with_opt=False)
    assert torch.equal(fresh.get_preds()[0], learn.get_preds()[0])


def test_an_interrupted_fit_leaves_the_pictures(arrays, tmp_path):
    class Stop(Callback):
        def after_batch(self, learn): raise KeyboardInterrupt
    learn = learner(data_of(arrays), tmp_path)
    learn.precompute = True
    pictures = learn.data
    learn.fit(1e-2, 1, cbs=Stop())
    assert learn.data is pictures and learn.model[0] is learn.body
    assert learn.precompute


# ---- what does not fit ----

@pytest.mark.parametrize('make, words', [
    (lambda d, a: vision_learner(list(d.train)), 'needs an ImageData with classes'),
    (lambda d, a: vision_learner(d, 'resnet1000'), "no classifier 'resnet1000', but alexnet"),
    (lambda d, a: vision_learner(d, nn.Sequential(nn.Conv2d(3, 4, 3))), 'Give stats='),
    (lambda d, a: vision_learner(d, resnet2_cifar10(), stats=cifar10_stats, cut=0), 'Resnet2 has 6 parts'),
    (lambda d, a: vision_learner(d, cut=0), 'Resnet2 has 6 parts'),
    (lambda d, a: vision_learner(d, cut=3), "'layers' of Resnet2 is a ModuleList"),
    (lambda d, a: vision_learner(d, stats=((.5,), (.5,))), 'each with 3 numbers'),
    (lambda d, a: vision_learner(d, ps=1.5), '0 to below 1'),
    (lambda d, a: vision_learner(ImageData.from_arrays(a[0][..., 0], a[1], a[2][..., 0], a[3])), 'np.repeat'),
    (lambda d, a: vision_learner(d.replace(size=4), nn.Sequential(nn.Conv2d(3, 4, 7), nn.ReLU()), cut=2,
                                 stats=cifar10_stats), 'fails on pictures of 4 by 4'),
])
def test_errors(make, words, arrays):
    with pytest.raises((ValueError, TypeError), match=words): make(data_of(arrays), arrays)


def test_many_labels(arrays, tmp_path):
    y = np.eye(10, dtype=np.float32)[arrays[1]]; vy = np.eye(10, dtype=np.float32)[arrays[3]]
    learn = learner(data_of((arrays[0], y, arrays[2], vy, arrays[4])), tmp_path)
    learn.precompute = True
    learn.fit(1e-2, 1)
    assert 'f2' in learn.recorder.epochs[0]


def test_two_classes_and_files(tmp_path):
    from PIL import Image
    rng = np.random.default_rng(0)
    for split, n in (('train', 8), ('valid', 4)):
        for name in ('a', 'b'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                x = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(x).save(tmp_path / split / name / f'{i}.png')
    keys = []
    for in_memory in (True, False):
        data = ImageData.from_folder(tmp_path, size=32, bs=4, in_memory=in_memory)
        learn = learner(data, tmp_path)
        learn.precompute = True
        learn.fit(1e-3, 1)
        keys.append(len(stored()))
    assert keys == [2, 4]
    file = tmp_path / 'train' / 'a' / '0.png'
    os.utime(file, (1, 1))                                   # a file on the disk is known by its date
    learner(ImageData.from_folder(tmp_path, size=32, bs=4, in_memory=False), tmp_path).precompute = True
    assert len(stored()) == 5


def test_features_of_a_file_that_was_replaced_are_never_used(tmp_path):
    from PIL import Image
    rng = np.random.default_rng(0)
    def write(file):                                         # uncompressed: all files are equally large
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, compress_level=0)
    for split in ('train', 'valid'):
        for name in ('a', 'b'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4): write(tmp_path / split / name / f'{i}.png')

    def features():
        learn = learner(ImageData.from_folder(tmp_path, size=32, bs=4, in_memory=False), tmp_path)
        learn.precompute = True
        return learn.features['train'].x

    first, file = features(), tmp_path / 'train' / 'a' / '0.png'
    assert torch.equal(features(), first) and len(stored()) == 2
    before = file.stat()
    write(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))                 # someone sets the clock back
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = features()
    assert len(stored()) == 3 and not torch.equal(second[0], first[0]) and torch.equal(second[1:], first[1:])


def test_make_head_sizes():
    for concat, n in ((True, 14), (False, 7)):
        head = make_head(7, 3, concat_pool=concat, hidden=5)
        assert list(head(torch.rand(2, 7, 1, 9)).shape) == [2, 3]
        assert [m.num_features for m in head if isinstance(m, nn.BatchNorm1d)] == [n, 5]


def test_a_body_in_float64_gets_a_head_in_float64(arrays, tmp_path):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    learn = vision_learner(data_of(arrays), nn.Sequential(body, nn.Flatten()), cut=1, stats=cifar10_stats,
                           path=tmp_path, precision='fp32', progress=False)
    assert {p.dtype for p in learn.model.parameters()} == {torch.float64}
    learn.fit(0.01, 1)
