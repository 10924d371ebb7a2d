"""`lessondl.trace` on random models, judged by PyTorch and by a second account of every operation.

Each seed makes one small model. Its trace must give what the model gives, module by module; each number must
be what its window alone makes of it; and a number outside the window must have no gradient."""

import copy
import math
import random
from collections import OrderedDict, deque

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lessondl import cnn, rnn
from lessondl.trace import Step, moving, operations, trace

f64 = torch.float64


# ---- random models ----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Apply(nn.Module):
    "A function in the middle of a model"

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *x):
        return self.f(*x)


class LoopRnn(nn.Module):
    "The hand-written loop of the course: add or put side by side the input and the state"

    def __init__(self, vocab, width, hidden, side_by_side):
        super().__init__()
        self.side_by_side, self.hidden = side_by_side, hidden
        self.e = nn.Embedding(vocab, width)
        self.l_in = nn.Linear(width + hidden if side_by_side else width, hidden)
        self.l_hidden, self.l_out = nn.Linear(hidden, hidden), nn.Linear(hidden, vocab)

    def forward(self, *cs):
        h = torch.zeros(len(cs[0]), self.hidden, dtype=self.l_in.weight.dtype)
        for c in cs:
            x = self.e(c)
            x = F.relu(self.l_in(torch.cat([x, h], 1) if self.side_by_side else x))
            h = torch.tanh(self.l_hidden(x if self.side_by_side else h + x))
        return F.log_softmax(self.l_out(h), dim=-1)


class Recurrent(nn.Module):
    "An embedding, nn.RNN, nn.GRU or nn.LSTM, and an answer for each character"

    def __init__(self, kind, vocab, width, hidden, **options):
        super().__init__()
        self.e = nn.Embedding(vocab, width)
        self.rnn = getattr(nn, kind)(width, hidden, **options)
        self.l_out = nn.Linear(hidden * (2 if options.get('bidirectional') else 1), vocab)

    def forward(self, cs):
        out, _ = self.rnn(self.e(cs))
        return F.log_softmax(self.l_out(out), dim=-1)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x):
        h = self.norm(x)
        score = self.q(h) @ self.k(h).transpose(-1, -2) / math.sqrt(x.shape[-1])
        return x + score.softmax(-1) @ self.v(h)


def pointwise(r):
    return r.choice(
        [
            nn.ReLU(),
            nn.LeakyReLU(0.1),
            nn.ELU(),
            nn.GELU(),
            nn.GELU('tanh'),
            nn.SiLU(),
            nn.Tanh(),
            nn.Sigmoid(),
            nn.Softplus(),
            nn.Hardtanh(),
            nn.ReLU6(),
            nn.Hardswish(),
            nn.PReLU(),
            nn.Softsign(),
            nn.Mish(),
            nn.LogSigmoid(),
            nn.SELU(),
            nn.CELU(),
            nn.Softshrink(),
            nn.ReLU(inplace=True),
        ]
    )


def convolution(r, dims, channels, out=None, keep_size=False):
    groups = r.choice([1, 1, channels]) if out is None or out % channels == 0 else 1
    out = out or groups * r.randint(1, 3)
    conv = nn.Conv1d if dims == 1 else nn.Conv2d
    if keep_size:
        return conv(
            channels, out, 3, padding='same' if r.random() < 0.3 else 1, groups=groups, bias=r.random() < 0.5
        )
    return conv(
        channels,
        out,
        tuple(r.randint(1, 3) for _ in range(dims)),
        tuple(r.randint(1, 2) for _ in range(dims)),
        padding=tuple(r.randint(0, 2) for _ in range(dims)),
        dilation=tuple(r.randint(1, 2) for _ in range(dims)),
        groups=groups,
        bias=r.random() < 0.7,
        padding_mode=r.choice(['zeros'] * 5 + ['reflect', 'replicate', 'circular']),
    )


def pooling(r, dims):
    size = r.randint(2, 3)
    kind, stride, padding, ceil = (
        r.choice(['max', 'avg']),
        r.randint(1, 3),
        r.randint(0, size // 2),
        r.random() < 0.5,
    )
    if kind == 'max':
        pool = nn.MaxPool1d if dims == 1 else nn.MaxPool2d
        return pool(size, stride, padding, dilation=r.randint(1, 2), ceil_mode=ceil)
    pool = nn.AvgPool1d if dims == 1 else nn.AvgPool2d
    return pool(size, stride, padding, ceil_mode=ceil, count_include_pad=r.random() < 0.5)


def batch_norm(dims, channels):
    norm = (nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(channels)
    for t in (norm.weight.data, norm.bias.data, norm.running_mean):
        t.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def convolutional(r, dims):
    x = torch.randn(r.randint(1, 2), r.randint(1, 3), *(r.randint(5, 9) for _ in range(dims)))
    layers, out = [], x
    while len(layers) < 6 and r.random() < 0.85:
        channels = out.shape[1]
        kind = r.choice(
            ['conv', 'conv', 'conv', 'norm', 'point', 'point', 'pool', 'residual', 'drop', 'layer norm', 'up']
        )
        if kind == 'conv':
            layer = convolution(r, dims, channels)
        elif kind == 'norm':
            layer = batch_norm(dims, channels)
        elif kind == 'point':
            layer = pointwise(r)
        elif kind == 'pool':
            layer = pooling(r, dims)
        elif kind == 'drop':
            layer = nn.Dropout(0.5)
        elif kind == 'layer norm':
            layer = nn.LayerNorm(list(out.shape[-r.randint(1, 2) :]))
        elif kind == 'up':
            layer = nn.Upsample(scale_factor=2) if out[0, 0].numel() < 30 else nn.Identity()
        else:
            layer = Residual(
                nn.Sequential(
                    convolution(r, dims, channels, channels, True), batch_norm(dims, channels), pointwise(r)
                )
            )
        try:
            after = nn.Sequential(*layers, layer).eval()(x)
        except (RuntimeError, ValueError):
            continue  # the window does not fit, or the padding is too wide
        if not after.numel() or not after.isfinite().all():
            continue  # -inf where a dilated window lies in the padding altogether
        layers.append(layer)
        out = after.detach()
    pool = r.choice(['max', 'avg', 'mean', 'amax', 'flatten', 'adaptive max', 'adaptive avg'])
    if pool in ('max', 'avg'):
        layers += [getattr(nn, f'Adaptive{pool.title()}Pool{dims}d')(1), nn.Flatten()]
    elif pool == 'mean':
        layers.append(Apply(lambda x: x.flatten(2).mean(-1)))
    elif pool == 'amax':
        layers.append(Apply(lambda x: x.flatten(2).amax(2)))
    else:
        if pool != 'flatten':
            layers.append(getattr(nn, f'Adaptive{pool[9:].title()}Pool{dims}d')(r.randint(2, 4)))
        layers.append(nn.Flatten())
    features = nn.Sequential(*layers).eval()(x).shape[1]
    layers.append(nn.Linear(features, r.randint(2, 5), bias=r.random() < 0.8))
    if r.random() < 0.6:
        layers.append(r.choice([nn.Softmax(dim=1), nn.LogSoftmax(dim=-1), nn.Sigmoid()]))
    return nn.Sequential(*layers), (x,)


def dense(r):
    width = r.randint(3, 6)
    shared = nn.Linear(width, width)
    layers = [nn.Linear(r.randint(2, 5), width)]
    for _ in range(r.randint(1, 4)):
        layers += [
            r.choice(
                [
                    shared,
                    nn.Linear(width, width),
                    Residual(nn.Linear(width, width)),
                    batch_norm(1, width),
                    nn.LayerNorm(width),
                    nn.RMSNorm(width, eps=1e-6),
                    Apply(lambda x: (x - x.mean(0)) / (x.var(0) + 1)),
                    Apply(lambda x: F.normalize(x)),
                    Apply(lambda x: torch.where(x > 0, x, x.exp() - 1)),
                    Apply(lambda x: x.masked_fill(x < -1, 0.5)),
                    Apply(lambda x: x.clamp(-1, 1) * x.sum(1, keepdim=True)),
                    Apply(lambda x: x.flip(1).roll(1, 0) / 2),
                    Apply(lambda x: torch.stack([x, -x], 2).amax(2)),
                    Apply(lambda x: x.pow(2).sqrt() - x.abs().max()),
                    nn.GLU() if width % 2 == 0 else nn.Identity(),
                ]
            ),
            pointwise(r),
        ]
        width = nn.Sequential(*layers).eval()(torch.zeros(2, layers[0].in_features)).shape[1]
        if width != shared.in_features:
            break
    return nn.Sequential(*layers), (torch.randn(r.randint(2, 3), layers[0].in_features),)


def recurrent(r):
    vocab, width, hidden, n, length = (
        r.randint(3, 6),
        r.randint(1, 4),
        r.randint(2, 4),
        r.randint(1, 3),
        r.randint(1, 4),
    )
    if r.random() < 0.4:
        cs = [torch.randint(vocab, (n,)) for _ in range(length)]
        return LoopRnn(vocab, width, hidden, r.random() < 0.5), tuple(cs)
    options = dict(
        num_layers=r.randint(1, 2),
        bidirectional=r.random() < 0.4,
        batch_first=r.random() < 0.4,
        bias=r.random() < 0.8,
    )
    kind = r.choice(['RNN', 'GRU', 'LSTM'])
    if kind == 'RNN':
        options['nonlinearity'] = r.choice(['tanh', 'relu'])
    return Recurrent(kind, vocab, width, hidden, **options), (torch.randint(vocab, (length, n)),)


def attention(r):
    width, n = 2 * r.randint(1, 3), r.randint(2, 4)
    block = [
        lambda: Attention(width),
        lambda: nn.TransformerEncoderLayer(width, 2, 6, batch_first=True, activation='gelu'),
    ]
    return nn.Sequential(*(r.choice(block)() for _ in range(r.randint(1, 2))), nn.Linear(width, 2)), (
        torch.randn(2, n, width),
    )


def random_model(seed):
    r = random.Random(seed)
    torch.manual_seed(seed)
    kind = r.choices(['conv2d', 'conv1d', 'dense', 'recurrent', 'attention'], [8, 3, 3, 5, 1])[0]
    if kind.startswith('conv'):
        model, inputs = convolutional(r, int(kind[4]))
    else:
        model, inputs = {'dense': dense, 'recurrent': recurrent, 'attention': attention}[kind](r)
    return model.eval(), inputs


# ---- a second account of every operation -------------------------------------------------------------------


def counted(s, index):
    "By how many an average pooling divides"
    a = s.args
    if a.get('divisor_override'):
        return a['divisor_override']
    n = 1
    for d, i in enumerate(index[-2:]):

        def of(k, d=d):
            return a[k][d % len(a[k])]

        stride = a['stride'][d % len(a['stride'])] if a['stride'] else of('kernel_size')
        size, first = s.operands['input'].shape[d - 2], i * stride - of('padding')
        last = min(first + of('kernel_size'), size + of('padding'))
        n *= last - first if a['count_include_pad'] else min(last, size) - max(first, 0)
    return n


POINTWISE = {
    'add': lambda a, x, other: x + a.get('alpha', 1) * other,
    'sub': lambda a, x, other: x - a.get('alpha', 1) * other,
    'mul': lambda a, x, other: x * other,
    'div': lambda a, x, other: x / other,
    'neg': lambda a, x: -x,
    'abs': lambda a, x: abs(x),
    'pow': lambda a, x, exponent: x**exponent,
    'exp': lambda a, x: math.exp(x),
    'expm1': lambda a, x: math.expm1(x),
    'log': lambda a, x: math.log(x),
    'log1p': lambda a, x: math.log1p(x),
    'sqrt': lambda a, x: math.sqrt(x),
    'rsqrt': lambda a, x: 1 / math.sqrt(x),
    'reciprocal': lambda a, x: 1 / x,
    'sign': lambda a, x: (x > 0) - (x < 0),
    'sigmoid': lambda a, x: 1 / (1 + math.exp(-x)),
    'tanh': lambda a, x: math.tanh(x),
    'relu': lambda a, x: max(x, 0),
    'gelu': lambda a, x: (
        x / 2 * (1 + math.erf(x / math.sqrt(2)))
        if a.get('approximate', 'none') == 'none'
        else x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    'leaky_relu': lambda a, x: x if x > 0 else a['negative_slope'] * x,
    'elu': lambda a, x: a['scale'] * (x if x > 0 else a['alpha'] * math.expm1(a['input_scale'] * x)),
    'clamp': lambda a, x, min=-math.inf, max=math.inf: sorted([min, x, max])[1],
    'hardtanh': lambda a, x: min(max(x, a['min_val']), a['max_val']),
    'trunc': lambda a, x: math.trunc(x),
    'maximum': lambda a, x, other: max(x, other),
    'minimum': lambda a, x, other: min(x, other),
    'where': lambda a, other, condition, x: x if condition else other,
    'gt': lambda a, x, other: x > other,
    'ge': lambda a, x, other: x >= other,
    'lt': lambda a, x, other: x < other,
    'le': lambda a, x, other: x <= other,
    'eq': lambda a, x, other: x == other,
    'ne': lambda a, x, other: x != other,
    'logical_not': lambda a, x: not x,
    'sin': lambda a, x: math.sin(x),
    'cos': lambda a, x: math.cos(x),
    'erf': lambda a, x: math.erf(x),
}
DOTS = {'convolution': 'weight', 'linear': 'weight', 'mm': 'mat2', 'bmm': 'mat2'}
REDUCED = {
    'sum': torch.sum,
    'mean': torch.mean,
    'amax': torch.max,
    'amin': torch.min,
    'max': torch.max,
    'min': torch.min,
    'any': torch.any,
    'max_pool2d': torch.max,
    'adaptive_max_pool2d': torch.max,
    'adaptive_avg_pool2d': torch.mean,
}


def expected(s: Step, index) -> float:
    "The number at `index`, from the numbers of its window alone"
    w = {k: s.operands[k].value.to(f64).flatten()[p] for k, p in s.window(*index).items()}
    a, x = s.args, w.get('input')
    if s.moves:
        came = torch.cat(list(w.values()))
        assert len(came) == (s.cells[index] >= 0)
        return came.item() if len(came) else s.value[index].item()
    if s.op in DOTS:
        return ((x * w[DOTS[s.op]]).sum() + w.get('bias', torch.zeros(1, dtype=f64))).item()
    if s.op == 'addmm':
        return a.get('beta', 1) * x.item() + a.get('alpha', 1) * (w['mat1'] * w['mat2']).sum().item()
    if s.op == 'max_pool2d' and not len(x):
        return -math.inf  # a dilated window can lie in the padding altogether
    if s.op in REDUCED:
        return REDUCED[s.op](x).item()
    if s.op == 'var':
        return x.var(correction=a.get('correction', 1)).item()
    if s.op == 'avg_pool2d':
        return x.sum().item() / counted(s, index)
    if s.op == 'embedding':
        return w['weight'].item()
    if s.op in ('softmax', 'log_softmax'):
        own, total = x[index[a['dim']]], (x - x.max()).exp().sum().log() + x.max()
        return (own - total).exp().item() if s.op == 'softmax' else (own - total).item()
    if s.op == 'batch_norm':
        y = (x - w['running_mean']) / (w['running_var'] + a['eps']).sqrt()
        return (y * w.get('weight', 1) + w.get('bias', 0)).item()
    if s.op == 'layer_norm':
        d = len(a['normalized_shape'])
        own = x.reshape(a['normalized_shape'])[index[-d:]]
        y = (own - x.mean()) / (x.var(correction=0) + a['eps']).sqrt()
        return (y * w.get('weight', 1) + w.get('bias', 0)).item()
    numbers = {'x' if k == 'input' else k: v.item() for k, v in w.items()}
    known = POINTWISE[s.op].__code__.co_varnames
    return float(POINTWISE[s.op](a, **({k: v for k, v in a.items() if k in known} | numbers)))


def positions(shape, r, k=4):
    return {tuple(r.randrange(n) for n in shape) for _ in range(k)} if all(shape) else set()


def seen_by(t, cells) -> set:
    "All cells that the numbers in `cells` come from, themselves included"
    todo, found = {int(c) for c in cells} - {-1}, set()
    while todo:
        found |= todo
        behind = set()
        for c in todo:
            s, at = t.cell(c)
            for k, w in s.window(*at).items():
                behind.update(s.operands[k].cells.flatten()[w].tolist())
        todo = behind - found - {-1}
    return found


def numbers_of(t):
    "The value of every cell, in a row"
    owners = [s for s in [*t.steps, *t.weights, *t.constants] if not s.moves]
    flat = torch.full((1 + max(int(s.cells.max()) for s in owners if s.cells.numel()),), math.nan, dtype=f64)
    for s in owners:
        flat[s.cells.flatten()] = s.value.to(f64).flatten()
    return flat


def close(a, b, tolerance):
    return torch.allclose(a.to(f64), b.to(f64), rtol=tolerance, atol=tolerance, equal_nan=True)


def same_as_model(model, inputs, dtype=None, tolerance=1e-4):
    "Trace, and compare the answer and what hooks see with the model itself in that precision"
    t = trace(model, *inputs, dtype=dtype)
    judge, seen = copy.deepcopy(model), {}
    if dtype:
        judge, inputs = judge.to(dtype), tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    for name, m in judge.named_modules(remove_duplicate=False):
        if not list(m.children()):
            # a copy: a ReLU in place would change what the hook keeps
            m.register_forward_hook(
                lambda m, i, out, name=name: seen.setdefault(name, []).append(
                    out if isinstance(out, tuple) else out.detach().clone()
                )
            )
    with torch.no_grad():
        answer = judge(*(x.clone() for x in inputs))
    assert t.output.dtype == answer.dtype and close(t.output, answer, tolerance)
    last = {s.module: s for s in t.steps if not s.moves}
    for name, outs in seen.items():
        inplace = getattr(judge.get_submodule(name), 'inplace', False)
        if name not in last or isinstance(outs[0], tuple) or len(outs) > 1 or inplace:
            continue
        s = last[name]
        if s.value.numel() == outs[0].numel():
            assert close(s.value.reshape(outs[0].shape), outs[0], tolerance), s
    return t, judge, inputs


def check_steps(t, r, tolerance=1e-9):
    "Every step by its windows, every moved number by its owner"
    flat = numbers_of(t)
    assert len({s.name for s in [*t.steps, *t.weights, *t.constants]}) == len(
        [*t.steps, *t.weights, *t.constants]
    )
    for s in t.steps:
        assert s.cells.shape == s.value.shape and s.cells.dtype == torch.int64 and t[s.name] is s
        there = s.cells >= 0
        assert torch.equal(flat[s.cells[there]].nan_to_num(), s.value.to(f64)[there].nan_to_num()), s
        if s.op == 'input':
            continue
        assert s.op in moving or s.op in operations
        for index in positions(s.shape, r):
            got, want = s.value[index].item(), expected(s, index)
            close_enough = got == want or math.isclose(got, want, rel_tol=tolerance, abs_tol=tolerance)
            assert close_enough, (s, s.args, index, got, want)
            cell = int(s.cells[index])
            if cell >= 0:
                owner, at = t.cell(cell)
                assert owner.value[at].item() == got or math.isnan(got)
                if not s.moves:
                    assert owner is s and at == index


def check_gradients(t, model, inputs, r):
    "What lies outside the window of windows has no gradient"
    xs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    out = model(*(x * 1 if x.is_floating_point() else x for x in xs))  # a leaf must not be changed in place
    if not out.numel():
        return
    index = tuple(r.randrange(n) for n in out.shape)
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    wanted = [x for x in xs if x.requires_grad] + list(parameters.values())
    grads = torch.autograd.grad(out[index], wanted, allow_unused=True)
    seen = torch.tensor(sorted(seen_by(t, [t.outputs[0].cells[index]])))
    named = {w.name: w for w in t.weights}
    cells = [s.cells for x, s in zip(inputs, t.inputs) if x.is_floating_point()]
    cells += [named[k].cells if k in named else None for k in parameters]
    for c, g in zip(cells, grads):
        if c is not None and g is not None:
            assert torch.isin(c[g != 0], seen).all()


def check_seed(seed):
    r = random.Random(seed)
    model, inputs = random_model(seed)
    same_as_model(model, inputs)
    t, judge, inputs = same_as_model(model, inputs, f64, 1e-9)
    check_steps(t, r)
    check_gradients(t, judge, inputs, r)
    assert repr(t).count('\n') >= 2 and t._repr_html_().count('<tr>') >= 2


# 240 models; the first 30 in `make test`, all of them in `make test-e2e`
@pytest.mark.parametrize('seed', range(30))
def test_random_model(seed):
    check_seed(seed)


@pytest.mark.e2e
@pytest.mark.parametrize('seeds', [range(i, i + 15) for i in range(30, 240, 15)])
def test_more_random_models(seeds):
    for seed in seeds:
        check_seed(seed)


def test_every_operation_has_a_second_account():
    known = {
        *DOTS,
        *REDUCED,
        *POINTWISE,
        'addmm',
        'var',
        'avg_pool2d',
        'embedding',
        'softmax',
        'log_softmax',
        'batch_norm',
        'layer_norm',
        'clamp_min',
        'clamp_max',
    }
    assert known == set(operations) and not set(operations) & moving


# ---- models of the course ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'make',
    [
        lambda: cnn.SimpleNet([192, 8, 5]),
        lambda: cnn.ConvNet([3, 4, 6], 5),
        lambda: cnn.ConvNet2([3, 4, 6], 5),
        lambda: cnn.ConvBnNet([4, 6], 5),
        lambda: cnn.ConvBnNet2([4, 6], 5),
        lambda: cnn.Resnet([4, 6], 5),
        lambda: cnn.Resnet2([4, 6], 5),
        lambda: cnn.SpeedNet([4, 6], 5, torch.randn(20, 3, 16, 16)),
    ],
)
def test_models_of_lesson_09(make):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 8, 8)
    t, judge, inputs = same_as_model(model, (x,), f64, 1e-9)
    check_steps(t, random.Random(0))
    check_gradients(t, judge, inputs, random.Random(0))
    assert all(s.line.startswith('cnn.py:') for s in t.steps if s.op in ('convolution', 'log_softmax'))


class OwnCells(nn.Module):
    "A cell of lesson 10b in its loop, with the weights of PyTorch's layer"

    def __init__(self, cell, layer):
        super().__init__()
        self.cell, self.layer = cell, layer

    def forward(self, x):
        h = x.new_zeros(x.shape[1], self.layer.hidden_size)
        w = [getattr(self.layer, f'{k}_l0') for k in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')]
        return rnn.unroll(self.cell, x, (h, h) if self.cell is rnn.lstm_cell else h, *w)[0]


@pytest.mark.parametrize(
    'model, n_inputs',
    [
        (lambda: rnn.Char3Model(5, 3, 4), 3),
        (lambda: rnn.CharLoopModel(5, 3, 4), 4),
        (lambda: rnn.CharLoopConcatModel(5, 3, 4), 4),
        (lambda: rnn.CharRnn(5, 3, 4), 4),
        (lambda: rnn.CharSeqRnn(5, 3, 4), 4),
    ],
)
def test_models_of_lesson_10(model, n_inputs):
    torch.manual_seed(0)
    model, cs = model().eval(), tuple(torch.randint(5, (2,)) for _ in range(n_inputs))
    t, judge, _ = same_as_model(model, cs, f64, 1e-9)
    check_steps(t, random.Random(0))
    check_gradients(t, judge, cs, random.Random(0))
    assert [tuple(s.shape) for s in t.inputs] == [(2,)] * n_inputs


@pytest.mark.parametrize(
    'kind', [rnn.CharSeqStatefulRnn, rnn.CharSeqStatefulRnn2, rnn.CharSeqStatefulGRU, rnn.CharSeqStatefulLSTM]
)
def test_models_of_lesson_10b(kind):
    torch.manual_seed(0)
    model, first, second = kind(5, 3, 4).eval(), torch.randint(5, (3, 2)), torch.randint(5, (2, 2))
    t = trace(model, first, dtype=f64)  # from zeros
    judge = copy.deepcopy(model).to(f64).eval()
    with torch.no_grad():
        assert close(t.output, judge(first), 1e-9) and model.h is None
    check_steps(t, random.Random(0))
    with torch.no_grad():
        model(first)
    kept = copy.deepcopy(model.h)
    t = trace(model, second)  # from the state that the first batch left, in this precision
    assert all(torch.equal(a, b) for a, b in zip(model.h, kept))
    check_steps(t, random.Random(0), 1e-4)
    state = [c for c in t.constants if c.name.startswith('h')]
    assert len(state) == (2 if kind is rnn.CharSeqStatefulLSTM else 1)
    with torch.no_grad():
        assert close(t.output, model(second), 1e-5)
        model.reset()
        assert not close(t.output, model(second), 1e-3)  # zeros give another answer


@pytest.mark.parametrize('name', ['RNN', 'GRU', 'LSTM'])
def test_own_cells_step_by_step(name):
    torch.manual_seed(0)
    cell, layer = getattr(rnn, f'{name.lower()}_cell'), getattr(nn, name)(3, 4)
    x, judge = torch.randn(3, 2, 3), copy.deepcopy(layer).to(f64)
    t, *_ = same_as_model(OwnCells(cell, layer).eval(), (x,), f64, 1e-9)
    check_steps(t, random.Random(0))
    with torch.no_grad():
        want = judge(x.to(f64))[0]
    assert close(t.output, want, 1e-9)
    # the state after each character is a step of its own, and is PyTorch's
    states = [s.value for s in t.steps if tuple(s.shape) == (2, 4) and not s.moves]
    for h in want:
        assert any(close(s, h, 1e-9) for s in states)


def test_a_window_that_lies_in_the_padding_is_empty():
    t = trace(nn.MaxPool2d(2, padding=1, dilation=2), torch.ones(1, 1, 1, 1))
    assert t.output.item() == -math.inf and not len(t.outputs[0].window(0, 0, 0, 0)['input'])


def test_own_batch_norm():
    torch.manual_seed(0)
    net = cnn.ConvBnNet([4, 6], 5)
    net.layers[0].norm = cnn.BatchNorm(6)
    net(torch.randn(4, 3, 8, 8))
    with pytest.raises(ValueError, match=r'training mode.*model.eval\(\)'):
        trace(net, torch.randn(2, 3, 8, 8))
    check_steps(same_as_model(net.eval(), (torch.randn(1, 3, 8, 8),), f64, 1e-9)[0], random.Random(0))


class Stateful(nn.Module):
    "A char-RNN that keeps its state from batch to batch, as in the lecture notes"

    def __init__(self, kind='RNN', vocab=5, width=3, hidden=4, bs=2):
        super().__init__()
        self.vocab, self.kind = vocab, kind
        self.e, self.rnn, self.l_out = (
            nn.Embedding(vocab, width),
            getattr(nn, kind)(width, hidden),
            nn.Linear(hidden, vocab),
        )
        self.h = torch.rand(1, bs, hidden)
        if kind == 'LSTM':
            self.h = self.h, torch.rand(1, bs, hidden)

    def forward(self, cs):
        out, h = self.rnn(self.e(cs), self.h)
        self.h = tuple(x.detach() for x in h) if self.kind == 'LSTM' else h.detach()
        return F.log_softmax(self.l_out(out), dim=-1).view(-1, self.vocab)


@pytest.mark.parametrize('kind', ['RNN', 'GRU', 'LSTM'])
def test_a_state_is_a_named_constant_and_stays(kind):
    torch.manual_seed(0)
    model, cs = Stateful(kind).eval(), torch.randint(5, (3, 2))
    before = [h.clone() for h in (model.h if kind == 'LSTM' else [model.h])]
    weights = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    t = trace(model, cs, dtype=f64)
    after = model.h if kind == 'LSTM' else [model.h]
    assert all(torch.equal(a, b) for a, b in zip(after, before)) and torch.equal(
        torch.get_rng_state(), random_state
    )
    assert all(torch.equal(model.state_dict()[k], w) for k, w in weights.items())
    names = ['h.0', 'h.1'] if kind == 'LSTM' else ['h']
    assert [c.name for c in t.constants] == names
    assert all(torch.equal(t[n].value.float(), b) for n, b in zip(names, before))
    check_steps(t, random.Random(0))
    with torch.no_grad():
        assert close(t.output, model(cs), 1e-5)
    assert seen_by(t, t.outputs[0].cells.flatten()) >= set(t[names[0]].cells.flatten().tolist())


def test_a_state_in_a_buffer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('h', torch.ones(3))

        def forward(self, x):
            self.h = torch.tanh(self.h + x)
            return self.h * 2

    model = Model().eval()
    t = trace(model, torch.zeros(3))
    assert torch.equal(model.h, torch.ones(3)) and [w.name for w in t.weights] == ['h']
    assert [s.op for s in t.outputs] == ['mul'] and close(t.output, 2 * torch.tanh(torch.ones(3)), 1e-6)


def test_containers_that_the_model_fills_are_as_before():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.by_name = [], {}

        def forward(self, x):
            self.seen.append(x * 2)
            self.by_name['x'] = x
            return x + 1

    model = Model()
    trace(model, torch.ones(2))
    assert model.seen == [] and model.by_name == {}


class Keeps(nn.Module):
    "Changes what it keeps at every call, each kind of container and a parameter among it"

    def __init__(self, f):
        super().__init__()
        self.f, self.w = f, nn.Parameter(-torch.ones(2))
        self.h, self.nested = torch.ones(2), {'a': [torch.ones(2), ([torch.ones(2)],)]}
        self.past, self.names = deque([torch.ones(2)], maxlen=3), {'x'}
        self.wide = torch.ones(1).expand(2)  # its two numbers are one in memory: cannot be written to
        self.sparse = torch.eye(2).to_sparse()  # cannot be compared

    def forward(self, x):
        return self.f(self, x)

    def kept(self):
        (b, ((c,),)), (d,) = self.nested['a'], self.past
        ones = all(type(x) is torch.Tensor and x.tolist() == [1, 1] for x in (self.h, b, c, d, -self.w.data))
        return ones and self.names == {'x'} and list(self.nested) == ['a']


def assigns(m, x):
    m.nested['a'][0] = m.nested['a'][0] + x
    m.nested['a'][1][0][0] = m.nested['a'][0] * 2
    m.nested['new'] = x
    m.past.appendleft(m.past[0] + x)
    m.names.add('y')
    return m.nested['a'][0] + m.past[0]


def test_what_a_model_keeps_however_deep_is_as_before():
    model = Keeps(assigns)
    t = trace(model, torch.ones(2))
    assert close(t.output, torch.full((2,), 4.0), 0) and model.kept()
    assert [c.name for c in t.constants] == ['nested.a.0', 'past.0']


def in_place(m, x):
    m.h += x
    return m.h * 2


def in_place_deep(m, x):
    m.nested['a'][1][0][0].mul_(3)
    return m.nested['a'][1][0][0] * x


def in_a_parameter(m, x):
    m.w.data.clamp_(0)
    return m.w * x


def assigned_and_branched(m, x):
    assigns(m, x)
    m.h.add_(1)
    return x if m.nested['a'][0].sum() > 0 else -x


@pytest.mark.parametrize('f', [in_place, in_place_deep, in_a_parameter, assigned_and_branched])
def test_what_a_refused_model_keeps_is_as_before(f):
    model = Keeps(f)
    text = refused(model, torch.ones(2))
    assert 'assigned anew, self.h = self.h + x, not changed in place' in text and model.kept()


# ---- inputs, answers, weights ------------------------------------------------------------------------------


def test_weights_that_two_layers_share_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.e.weight

        def forward(self, x):
            return self.out(self.e(x))

    t = trace(Tied(), torch.tensor([1, 4]))
    assert [w.name for w in t.weights] == ['e.weight'] and t['out'].operands['weight'] is t['e'].operands[
        'weight'
    ]


def test_the_trace_keeps_its_numbers():
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    t = trace(model, x)
    before = t['weight'].value.clone()
    with torch.no_grad():
        model.weight.zero_(), x.zero_()
    assert torch.equal(t['weight'].value, before) and t.inputs[0].value.sum() == 2


def test_several_inputs_and_answers():
    model = Apply(
        lambda a, b, more: {'sum': a + b, 'rest': [more['k'][0] * 2, (a,)], 'none': None, 'number': 3}
    )
    t = trace(model, torch.ones(2), torch.ones(2) * 2, {'k': [torch.ones(3)]})
    assert len(t.inputs) == 3 and len(t.outputs) == 3
    assert t.outputs[0].op == 'add' and t.outputs[1].op == 'mul' and t.outputs[2] is t.inputs[0]
    assert torch.equal(t.output, torch.ones(2) * 3)


def test_half_precision_computed_in_double():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(-1)),
        torch.randn(1, 1, 4, 4),
    )
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        t = trace(half, x.to(dtype), dtype=f64)
        assert t.output.dtype == f64 and all(s.value.dtype == f64 for s in t)
        with torch.no_grad():
            assert close(t.output, copy.deepcopy(half).double()(x.to(dtype).double()), 1e-12)
        assert half[0].weight.dtype == dtype


def test_types_that_the_model_asks_for():
    t = trace(Apply(lambda x: x.float() / 255), torch.arange(6, dtype=torch.uint8), dtype=f64)
    assert [s.op for s in t] == ['input', 'div'] and t.output.dtype == f64 and t.output[5] == 5 / 255
    t = trace(Apply(lambda x: x.long() + 1), torch.tensor([1.7, -1.7]))
    assert [s.op for s in t] == ['input', 'trunc', 'add'] and t.output.tolist() == [2, 0]
    check_steps(t, random.Random(0))
    rounds = Apply(lambda x: x.half() * 2)
    with pytest.raises(ValueError, match='rounds numbers to torch.float16.*dtype=torch.float64'):
        trace(rounds, torch.tensor([0.1]))
    assert trace(rounds, torch.tensor([0.1]), dtype=f64).output.item() == pytest.approx(0.2, abs=1e-8)


def test_one_hot_and_cross_entropy():
    t = trace(
        Apply(lambda x, y: F.cross_entropy(x, y)), torch.randn(3, 4), torch.tensor([0, 3, 1]), dtype=f64
    )
    check_steps(t, random.Random(0))
    t = trace(Apply(lambda y: F.one_hot(y, 4).float() * 2), torch.tensor([0, 3]))
    check_steps(t, random.Random(0))


def test_names_are_unique():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.conv_2 = nn.Linear(2, 2), nn.Linear(2, 2)
            self.relu = nn.Parameter(torch.ones(2))

        def forward(self, conv):
            return torch.relu(self.conv_2(self.conv(self.conv(conv)))) * self.relu

    t = trace(Model(), torch.ones(1, 2))
    names = [s.name for s in [*t.steps, *t.weights]]
    assert len(set(names)) == len(names) and 'conv_2' in names


def test_cells_and_positions():
    t = trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.arange(4.0).reshape(1, 2, 2))
    assert t['0'].moves and t.cell(int(t['0'].cells[0, 3])) == (t.inputs[0], (0, 1, 1))
    assert t['0'].window(0, 3)['input'].tolist() == [3]
    assert t['1'].window(0, -1)['bias'].tolist() == [1] and t.inputs[0].window(0, 0, 0) == {}
    for wrong in ((0,), (0, 2), (0, -3), (0, 0, 0)):
        with pytest.raises(IndexError, match=r'1 has the shape \[1, 2\]'):
            t['1'].window(*wrong)
    with pytest.raises(KeyError, match='no step'):
        t['2']
    for wrong in (-1, 10**6):
        with pytest.raises(IndexError, match='no cell'):
            t.cell(wrong)


# ---- what cannot be traced ---------------------------------------------------------------------------------


class Unknown(nn.Module):
    def forward(self, x):
        return x.cumsum(1)


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def refused(model, *inputs, error=NotImplementedError):
    before = torch.get_rng_state()
    with pytest.raises(error) as e:
        trace(model, *inputs)
    assert torch.equal(torch.get_rng_state(), before)
    text = str(e.value)
    assert '/' not in text.split('PyTorch says')[0].replace('</', ''), text  # no path of this machine
    return text


@pytest.mark.parametrize(
    'model, words',
    [
        (Unknown(), ['cumsum', 'test_trace.py:', 'return x.cumsum(1)', 'operations']),
        (Branch(), ['test_trace.py:', 'if x.sum() > 0', 'torch.where']),
        (
            Apply(lambda x: x * x.sum().item()),
            ['Python number', 'item', 'test_trace.py:', 'return self.f(*x)'],
        ),
        (Apply(lambda x: torch.from_numpy(x.numpy() * 2)), ['test_trace.py:', 'x.numpy()', 'NumPy']),
        (Apply(lambda x: x.max(1)), ['second result of max', 'test_trace.py:']),
        (
            nn.Sequential(nn.Unflatten(1, (1, 1, 3)), nn.ConvTranspose2d(1, 1, 1)),
            ['conv_transpose', '1 (ConvTranspose2d)'],
        ),
        (nn.GroupNorm(1, 3), ['group_norm', 'GroupNorm']),
        # an addition into an index is no move, though its operation has the name of one
        (
            Apply(lambda x: x.index_put((torch.tensor([0]),), torch.ones(1, 3), accumulate=True)),
            ['index_put_accumulate', 'test_trace.py:'],
        ),
        (
            Apply(lambda x: x.index_add(1, torch.tensor([0]), torch.ones(2, 1)).relu()),
            ['index_put_accumulate', 'test_trace.py:'],
        ),
    ],
)
def test_what_cannot_be_a_step(model, words):
    text = refused(model.eval(), torch.ones(2, 3))
    assert all(w in text for w in words), text


def test_a_line_in_a_notebook_cell():
    source = 'class Cell(nn.Module):\n    def forward(self, x): return torch.relu(x.cumsum(1))\n'
    import linecache

    for file in ('/tmp/ipykernel_123/456.py', '<ipython-input-3-abc>', '<python-input-2>'):
        linecache.cache[file] = len(source), None, source.splitlines(True), file
        space = {'nn': nn, 'torch': torch}
        exec(compile(source, file, 'exec'), space)
        assert 'in cell:2: def forward(self, x): return torch.relu(x.cumsum(1))' in refused(
            space['Cell'](), torch.ones(2, 3)
        )


@pytest.mark.parametrize(
    'model, name',
    [
        (nn.Sequential(nn.Dropout(0.5)), '0 (Dropout)'),
        (nn.Sequential(nn.BatchNorm1d(3)), '0 (BatchNorm1d)'),
        (nn.LSTM(3, 2, 2, dropout=0.5), 'LSTM'),
    ],
)
def test_training_mode(model, name):
    text = refused(model.train(), torch.ones(2, 3), error=ValueError)
    assert name in text and 'model.eval()' in text


@pytest.mark.parametrize(
    'f, op', [(lambda x: F.dropout(x), 'native_dropout'), (lambda x: x + torch.randn(3), 'aten.randn')]
)
def test_random_numbers(f, op):
    text = refused(Apply(f).eval(), torch.ones(2, 3), error=ValueError)
    assert 'random' in text and op in text and 'test_trace.py:' in text and 'training=self.training' in text


def test_wrong_inputs():
    text = refused(nn.Conv2d(3, 4, 3), torch.ones(1, 1, 8, 8), error=ValueError)
    assert '[1, 1, 8, 8]' in text and 'forward(input' in text
    assert 'no inputs' in refused(nn.Linear(2, 2), error=ValueError)
    assert 'list' in refused(nn.Linear(2, 2), [1.0, 2.0], error=ValueError)
    for wrong in (torch.relu, nn.Linear, 3):
        with pytest.raises(TypeError, match='torch.nn.Module'):
            trace(wrong, torch.ones(2))


def test_a_failed_trace_changes_nothing():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('n', torch.zeros(()))
            self.calls = 0

        def forward(self, x):
            self.n += 1
            self.calls += 1
            torch.rand(1)
            return x if x.sum() > 0 else -x

    model = Counts().eval()
    refused(model, torch.ones(2))
    assert model.n == 0 and model.calls == 0 and list(model._buffers) == ['n']


# ---- table and picture -------------------------------------------------------------------------------------


def test_table_leaves_out_what_only_moves():
    t = trace(Stateful('LSTM').eval(), torch.randint(5, (4, 2)))
    assert len(t.rows()) < len(t.rows(moves=True)) == len(t)
    by_name = {r[0]: r for r in t.rows()}
    assert by_name['rnn.sigmoid'][2] == 'rnn.add[:, :, 0:4]' and t.outputs[0].name in by_name
    assert [
        s.name
        for s in trace(Apply(lambda x: torch.cat([x.sin(), x.cos()])[3]), torch.ones(2)).outputs[0].sources()
    ] == ['cos']
    assert 'rows(moves=True)' in repr(t) and by_name['e'][4] == '15'
    long = repr(trace(Stateful('LSTM').eval(), torch.randint(5, (12, 2))))
    assert len(long.splitlines()) < 63 and 'more' in long


def test_table_escapes_names():
    table = trace(nn.Sequential(OrderedDict({'<b>': nn.ReLU()})), torch.ones(1))._repr_html_()
    assert '&lt;b&gt;' in table and '<b>' not in table


def test_drawing():
    t = trace(cnn.Resnet([4, 6], 5).eval(), torch.randn(1, 3, 8, 8))
    ax = t.draw()
    texts = {x.get_text() for x in ax.texts}
    assert {'x', 'conv1', 'layers.0.conv', 'out'} <= texts and 'convolution 1×4×8×8' in texts
    ax = t.draw('layers2.0')
    assert {'layers2.0.conv', 'layers2.0.add', 'layers.0.norm'} <= {x.get_text() for x in ax.texts}
    with pytest.raises(ValueError, match='most=5'):
        t.draw(most=5)
    with pytest.raises(ValueError, match='no step of a module'):
        t.draw('layers7')
    plt.close('all')
