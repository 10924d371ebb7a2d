"""The workbook of a model: every formula against PyTorch, by the `formulas` package, and by LibreOffice."""
import html
import logging
import os
import re
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lessondl import spreadsheet
from lessondl.spreadsheet import (
    check_workbook,
    formulas,
    read_cells,
    read_values,
    recalculate,
    to_spreadsheet,
)
from lessondl.trace import operations, trace

close = dict(rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def by_formulas(path) -> dict[str, np.ndarray]:
    "Every step's numbers as the `formulas` package computes them, from the given numbers alone"
    import formulas as package
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        solution = package.ExcelModel().loads(str(path)).finish().calculate()
    logging.disable(logging.NOTSET)
    book = Path(path).name
    out = {}
    for name, cells in read_cells(path).items():
        keys = [f"'[{book}]{c.split('!')[0][1:-1].upper()}'!{c.split('!')[1]}" for c in cells.ravel()]
        out[name] = np.array([float(np.ravel(solution[k].value)[0]) for k in keys]).reshape(cells.shape)
    return out


def without_values(path, to):
    "The same formulas with no stored values: openpyxl writes none"
    book = openpyxl.load_workbook(path)
    book.save(to)
    return to


def agree(found: dict, model, inputs):
    "Each step of a workbook against PyTorch in float64"
    t = trace(model, *inputs, dtype=torch.float64)
    expected = {s.name: s.value.double().numpy() for s in [*t.steps, *t.weights, *t.constants]}
    assert found
    for name, value in found.items(): np.testing.assert_allclose(value, expected[name], **close, err_msg=name)
    np.testing.assert_allclose(list(found.values())[-1], t.output.double().numpy(), **close)


class Each(nn.Module):
    "Many small models on the same inputs, as one"
    def __init__(self, cases):
        super().__init__()
        self.parts = nn.ModuleDict({k: m for k, m in cases.items() if isinstance(m, nn.Module)})
        self.functions = {k: f for k, f in cases.items() if not isinstance(f, nn.Module)}

    def forward(self, *inputs):
        return {k: f(*inputs) for cases in (self.parts, self.functions) for k, f in cases.items()}


class On(nn.Module):
    "A layer on one of the inputs"
    def __init__(self, layer, f): super().__init__(); self.layer, self.f = layer, f
    def forward(self, *inputs): return self.layer(self.f(*inputs))


class Shared(nn.Module):
    "One dense layer on a column and on a square: its templates fit only the first"
    def __init__(self): super().__init__(); self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x[0, 0, 0, :4].relu()[None]) + self.layer((x[:, 0, :2, :2] * 2).flatten(1))


# of x [2,3], y [2,3] above 0, z [3]
pointwise = {
    'add': lambda x, y, z: x + z, 'add_number': lambda x, y, z: x + 2.5,
    'add_alpha': lambda x, y, z: torch.add(x, y, alpha=-.5),
    'sub': lambda x, y, z: x - z, 'rsub': lambda x, y, z: 1 - x,
    'sub_alpha': lambda x, y, z: torch.sub(x, y, alpha=2),
    'mul': lambda x, y, z: x * z, 'mul_number': lambda x, y, z: x * -3, 'div': lambda x, y, z: x / y,
    'div_number': lambda x, y, z: x / -.3,
    'over': lambda x, y, z: 2 / y, 'floor': lambda x, y, z: torch.div(x, y, rounding_mode='floor'),
    'trunc': lambda x, y, z: torch.div(x, y, rounding_mode='trunc'), 'square': lambda x, y, z: x ** 2,
    'cube': lambda x, y, z: -x ** 3,
    'root': lambda x, y, z: y ** -.5, 'zeroth': lambda x, y, z: x ** 0, 'power': lambda x, y, z: y ** x,
    'base': lambda x, y, z: 2 ** x,
    'neg': lambda x, y, z: -x, 'abs': lambda x, y, z: x.abs(), 'exp': lambda x, y, z: x.exp(),
    'expm1': lambda x, y, z: x.expm1(),
    'log': lambda x, y, z: y.log(), 'log1p': lambda x, y, z: y.log1p(), 'sqrt': lambda x, y, z: y.sqrt(),
    'rsqrt': lambda x, y, z: y.rsqrt(),
    'reciprocal': lambda x, y, z: y.reciprocal(), 'sigmoid': lambda x, y, z: (1000 * x).sigmoid(),
    'tanh': lambda x, y, z: x.tanh(),
    'relu': lambda x, y, z: x.relu(), 'gelu': lambda x, y, z: F.gelu(x),
    'gelu_tanh': lambda x, y, z: F.gelu(x, approximate='tanh'),
    'leaky': lambda x, y, z: F.leaky_relu(x, .2), 'elu': lambda x, y, z: F.elu(x, 1.5),
    'selu': lambda x, y, z: F.selu(x),
    'silu': lambda x, y, z: F.silu(x), 'clamp': lambda x, y, z: x.clamp(-.5, .7),
    'clamp_max': lambda x, y, z: x.clamp(max=.1),
    'clamp_min': lambda x, y, z: x.clamp(min=-.1), 'clamp_tensor': lambda x, y, z: x.clamp(min=z),
    'hardtanh': lambda x, y, z: F.hardtanh(x, -.4, .6),
    'relu6': lambda x, y, z: F.relu6(8 * x), 'softplus': lambda x, y, z: (1 + x.exp()).log(),
    'maximum': lambda x, y, z: torch.maximum(x, z),
    'minimum': lambda x, y, z: torch.minimum(x, z), 'where': lambda x, y, z: torch.where(x > z, x, y),
    'mask': lambda x, y, z: x.masked_fill(x > 0, -9.),
    'gt': lambda x, y, z: x > 0, 'ge': lambda x, y, z: x >= z, 'lt': lambda x, y, z: x < z,
    'le': lambda x, y, z: x <= .2,
    'eq': lambda x, y, z: x == x.amax(), 'ne': lambda x, y, z: x != z, 'sin': lambda x, y, z: x.sin(),
    'cos': lambda x, y, z: x.cos(),
    'erf': lambda x, y, z: torch.erf(x), 'sign': lambda x, y, z: x.sign(),
    'cut': lambda x, y, z: (3 * x).trunc(), 'not': lambda x, y, z: torch.logical_not(x > 0),
    'any': lambda x, y, z: (x > 1).any(1), 'var': lambda x, y, z: x.var(1),
    'var0': lambda x, y, z: x.var(correction=0), 'silent': lambda x, y, z: x.t().reshape(3, 2).flip(0),
    'sum': lambda x, y, z: x.sum(), 'sum1': lambda x, y, z: x.sum(1),
    'mean': lambda x, y, z: x.mean(0, keepdim=True), 'amax': lambda x, y, z: x.amax(-1),
    'amin': lambda x, y, z: x.amin((0, 1)), 'max': lambda x, y, z: x.max(), 'min': lambda x, y, z: x.min(),
    'softmax': lambda x, y, z: (300 * x).softmax(0), 'log_softmax': lambda x, y, z: (300 * x).log_softmax(-1),
    'mm': lambda x, y, z: x @ y.t(), 'mm2': lambda x, y, z: x.t() @ y, 'matvec': lambda x, y, z: x @ z,
    'addmm': lambda x, y, z: torch.addmm(z, x[:, :2], y[:, :3] * 2, beta=.5, alpha=3),
    'bmm': lambda x, y, z: torch.bmm(torch.stack([x, y]), torch.stack([y.t(), x.t()])),
    'pad_one': lambda x, y, z: F.pad(x, (1, 1), value=2.) + 1,
    'norm': nn.LayerNorm(3), 'norm_plain': nn.LayerNorm(3, elementwise_affine=False),
    'norm_all': nn.LayerNorm([2, 3]),
    'batch1': nn.BatchNorm1d(3), 'linear': nn.Linear(3, 2), 'linear_free': nn.Linear(3, 2, bias=False),
    'bilinear_sum': lambda x, y, z: torch.cat([x, y], 1) @ torch.cat([z, z])}
one_input = {'norm', 'norm_plain', 'norm_all', 'batch1', 'linear', 'linear_free'}

# of a picture [1,2,5,6]
pictures = {
    'conv': nn.Conv2d(2, 3, 3), 'padded': nn.Conv2d(2, 2, 3, padding=1),
    'stride': nn.Conv2d(2, 2, (2, 3), stride=(2, 1), padding=(1, 2)),
    'dilated': nn.Conv2d(2, 1, 2, dilation=2, padding=1), 'grouped': nn.Conv2d(2, 4, 3, groups=2, bias=False),
    'point': nn.Conv2d(2, 3, 1),
    'same': nn.Conv2d(2, 1, 3, padding='same'),
    'reflect': nn.Conv2d(2, 1, 3, padding=1, padding_mode='reflect'),
    'conv1d': On(nn.Conv1d(2, 3, 3, padding=1), lambda x: x[:, :, 0]),
    'conv3d': On(nn.Conv3d(1, 1, 2), lambda x: x[:, None]),
    'turned': On(nn.Conv2d(2, 1, 3), lambda x: x.transpose(2, 3)),
    'flipped': On(nn.Conv2d(2, 1, 3), lambda x: x.flip(3)),
    'ones': On(nn.Conv2d(2, 1, 3), lambda x: F.pad(x, (1, 1, 1, 1), value=1.)),
    'zeros': On(nn.Conv2d(2, 1, 3), lambda x: F.pad(x, (1, 1, 1, 1))),
    'joined': On(nn.Conv2d(4, 1, 3), lambda x: torch.cat([x, x.relu()], 1)),
    'cut': On(nn.Conv2d(2, 1, 2), lambda x: x[:, :, 1:4, ::2]),
    'max': nn.MaxPool2d(2), 'max_padded': nn.MaxPool2d(3, stride=2, padding=1),
    'max_ceil': nn.MaxPool2d(2, ceil_mode=True),
    'max_dilated': nn.MaxPool2d(2, stride=1, dilation=2),
    'max_zeros': On(nn.MaxPool2d(2), lambda x: F.pad(x - 9, (1, 0, 1, 0))),
    'avg': nn.AvgPool2d(2), 'avg_padded': nn.AvgPool2d(3, stride=2, padding=1),
    'avg_inside': nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    'avg_ceil': nn.AvgPool2d(2, ceil_mode=True, padding=1), 'avg_by': nn.AvgPool2d(2, divisor_override=3),
    'avg1d': On(nn.AvgPool1d(2), lambda x: x[:, 0]),
    'max1d': On(nn.MaxPool1d(2), lambda x: x[:, 0]), 'adaptive': nn.AdaptiveAvgPool2d((2, 4)),
    'adaptive_max': nn.AdaptiveMaxPool2d((3, 2)),
    'whole': nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)),
    'batch_norm': nn.BatchNorm2d(2),
    'batch_norm_plain': nn.BatchNorm2d(2, affine=False),
    'dense': nn.Sequential(nn.Flatten(), nn.Linear(60, 3)),
    'column': On(nn.Linear(30, 2), lambda x: torch.cat([x[0, 0], x[0, 0].relu()]).flatten()[::2]),
    'shared': Shared(),
    'channels': On(nn.Linear(2, 3), lambda x: x.permute(0, 2, 3, 1)), 'softmax': nn.Softmax(1)}

# of indices [2,3]
words = {'embed': nn.Embedding(5, 4), 'embed_one': nn.Embedding(5, 1),
         'embed_last': On(nn.Embedding(5, 2), lambda i: i[:, 1:]),
         'tied': On(nn.Embedding(5, 3), lambda i: i[0]), 'as_number': lambda i: i * 2 + 1}


def group(name):
    "A model of many, and its inputs"
    if name == 'pictures': model, inputs = Each(pictures), (torch.randn(1, 2, 5, 6),)
    elif name == 'words': model, inputs = Each(words), (torch.tensor([[0, 4, 1], [2, 2, 3]]),)
    else:
        cases = {k: On(f, lambda x, y, z: x) if k in one_input else f for k, f in pointwise.items()}
        model, inputs = Each(cases), (torch.randn(2, 3), torch.rand(2, 3) + .5, torch.randn(3))
    for p in model.parameters(): nn.init.normal_(p)
    for k, b in model.named_buffers():
        if 'running' in k: b.data.uniform_(.5, 2)
    return model.eval(), inputs


@pytest.mark.parametrize('name', ['pointwise', 'pictures', 'words'])
def test_every_formula_agrees_with_pytorch(tmp_path, name):
    model, inputs = group(name)
    path = to_spreadsheet(model, *inputs, path=tmp_path/'a.xlsx')
    agree(read_values(path), model, inputs)
    agree(by_formulas(without_values(path, tmp_path/'b.xlsx')), model, inputs)


def test_formulas_for_every_operation_and_a_case_for_each():
    assert set(formulas) == set(operations)
    groups = [group(name) for name in ('pointwise', 'pictures', 'words')]
    seen = {s.op for model, inputs in groups for s in trace(model, *inputs)}
    assert set(formulas) - seen <= {'hardtanh', 'clamp_min', 'clamp_max', 'erf'}, sorted(set(formulas) - seen)


# recurrent nets, with all their moving of numbers

class Recurrent(nn.Module):
    "Indices -> an answer for each place"
    def __init__(self, kind, layers=1, both=False, hidden=3):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.rnn = kind(4, hidden, num_layers=layers, bidirectional=both, batch_first=True)
        self.out = nn.Linear(hidden * (2 if both else 1), 6)

    def forward(self, i): return F.log_softmax(self.out(self.rnn(self.embed(i))[0]), -1)


class Loop(nn.Module):
    "A loop by hand, as in the first char-RNN"
    def __init__(self):
        super().__init__()
        self.embed, self.enter = nn.Embedding(6, 4), nn.Linear(4, 5)
        self.hidden, self.out = nn.Linear(5, 5), nn.Linear(5, 6)

    def forward(self, *letters):
        h = torch.zeros(letters[0].shape[0], 5)
        for c in letters: h = torch.tanh(self.hidden(h + F.relu(self.enter(self.embed(c)))))
        return F.log_softmax(self.out(h), -1)


class Residual(nn.Module):
    "A picture [N,1,6,6] through a block with a way around it"
    def __init__(self, stride=1):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.block, self.out = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = x + F.relu(self.block(x))
        return self.out(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    "Every place looks at every other"
    def __init__(self): super().__init__(); self.q, self.k, self.v = (nn.Linear(3, 3) for _ in range(3))
    def forward(self, x): return (self.q(x) @ self.k(x).transpose(1, 2) / 3 ** .5).softmax(-1) @ self.v(x)


def small_picture(n=1): return torch.randn(n, 1, 6, 6)

def letters(*shape): return torch.randint(0, 6, shape)

@pytest.mark.parametrize('make, inputs', [
    (lambda: Recurrent(nn.RNN), lambda: [letters(1, 3)]),
    (lambda: Recurrent(nn.GRU, both=True), lambda: [letters(2, 2)]),
    (lambda: Recurrent(nn.LSTM, layers=2), lambda: [letters(1, 2)]), (Loop, lambda: [letters(1)] * 3),
    (Residual, lambda: [small_picture()]), (Attention, lambda: [torch.randn(2, 4, 3)]),
    (lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), lambda: [torch.randn(1, 3, 4)])],
    ids=['rnn', 'gru', 'lstm', 'loop', 'residual', 'attention', 'transformer'])
def test_whole_models(tmp_path, make, inputs):
    model, inputs = make().eval(), inputs()
    path = to_spreadsheet(model, *inputs, path=tmp_path/'a.xlsx')
    agree(read_values(path), model, inputs)
    agree(by_formulas(path), model, inputs)


def test_an_edit_changes_the_answer(tmp_path):
    model, x = Residual().eval(), small_picture()
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    model_edited(path, model, [x], tmp_path/'b.xlsx', np.random.default_rng(0))
    found = by_formulas(tmp_path/'b.xlsx')
    assert np.abs(list(found.values())[-1] - list(read_values(path).values())[-1]).max() > 1e-3
    agree(found, model, [x])


def model_edited(path, model, inputs, to, rng):
    "Change numbers of every input and weight at random, in the workbook and in the model alike"
    book, cells = openpyxl.load_workbook(path), read_cells(path)
    t = trace(model, *inputs)
    given = {s.name: x for s, x in zip(t.inputs, inputs)}
    given |= dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in given.items():
        if name not in cells: continue
        for i in rng.choice(tensor.numel(), min(3, tensor.numel()), replace=False):
            at = np.unravel_index(i, tuple(tensor.shape))
            old = tensor[at].item()
            real = tensor.is_floating_point()
            new = float(np.float32(abs(old) * .75 + .25)) if real else int(rng.integers(6))
            with torch.no_grad(): tensor[at] = new
            sheet, cell = cells[name][at].split('!')
            book[sheet[1:-1]][cell].value = new
    book.save(to)


def test_a_wrong_formula_is_found(tmp_path):
    model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).eval(), torch.randn(1, 3)
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    book, cell = openpyxl.load_workbook(path), read_cells(path)['2'][0, 1].split('!')[1]
    book['model'][cell].value = book['model'][cell].value.replace('SUMPRODUCT', '1.000001*SUMPRODUCT')
    book.save(tmp_path/'b.xlsx')
    with pytest.raises(AssertionError, match='2'): agree(by_formulas(tmp_path/'b.xlsx'), model, [x])


# what the sheets look like to a reader

def all_formulas(path) -> dict[str, str]:
    book = openpyxl.load_workbook(path)
    cells = [c for ws in book for row in ws.iter_rows() for c in row]
    return {f"'{c.parent.title}'!{c.coordinate}": c.value for c in cells if c.data_type == 'f'}

def formula(path, name, *at): return all_formulas(path)[read_cells(path)[name][at]]


def test_formulas_are_those_of_the_classroom(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(2),
                        nn.Flatten(), nn.Linear(8, 3), nn.Softmax(1))
    path = to_spreadsheet(net.eval(), small_picture(), path=tmp_path/'a.xlsx')
    at = read_cells(path)
    def short(name, *i): return at[name][i].split('!')[1]
    def fixed(name, *i): return re.sub(r'([A-Z]+)([0-9]+)', r'$\1$\2', short(name, *i))
    window = f"{short('input', 0, 0, 2, 3)}:{short('input', 0, 0, 4, 5)}"
    assert formula(path, '0', 0, 1, 2, 3) == f"={fixed('0.bias', 1)}+SUMPRODUCT({window},layer_0_weight_1_0)"
    assert formula(path, '1', 0, 1, 2, 3) == f"=MAX(0,{short('0', 0, 1, 2, 3)})"
    inside = formula(path, '2', 0, 1, 1, 1)
    assert inside.count('SUMPRODUCT') == 2 and re.search('layer_2_weight_1_0.*layer_2_weight_1_1', inside)
    # at the padded edge both ranges are cut
    window = f"{short('1', 0, 0, 0, 0)}:{short('1', 0, 0, 1, 1)}"
    kernel = [fixed('2.weight', 0, 0, i, i) for i in (1, 2)]
    assert f'SUMPRODUCT({window},{kernel[0]}:{kernel[1]})' in formula(path, '2', 0, 0, 0, 0)
    assert formula(path, '3', 0, 0, 1, 1) == f"=MAX({short('2', 0, 0, 2, 2)}:{short('2', 0, 0, 3, 3)})"
    dense = formula(path, '5', 0, 2)                               # a template for each channel
    assert dense.count('SUMPRODUCT') == 2 and 'layer_5_weight_2_1' in dense
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ['map', 'model', 'index'] and 'layer_0_weight_1_0' in book.defined_names


def test_every_cell_of_a_step_is_a_formula_with_its_value(tmp_path):
    model, x = Residual().eval(), small_picture(2)
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    t, found, cells = trace(model, x), all_formulas(path), read_cells(path)
    given = {s.name for s in [*t.inputs, *t.weights, *t.constants]}
    for name, at in cells.items(): assert all((c in found) == (name not in given) for c in at.ravel()), name
    assert len({c for at in cells.values() for c in at.ravel()}) == sum(at.size for at in cells.values())
    # a reader that cannot calculate sees numbers
    assert pd.read_excel(path, sheet_name='model').notna().sum().sum() > 300


def test_values_come_in_the_order_of_the_trace_the_answer_last(tmp_path):
    model, i = Recurrent(nn.GRU).eval(), letters(2, 3)
    path = to_spreadsheet(model, i, path=tmp_path/'a.xlsx')
    values, t = read_values(path), trace(model, i, dtype=torch.float64)
    steps = [s.name for s in t.steps if not s.moves]
    assert [n for n in values if n in steps] == steps
    assert list(values)[-1] == t.outputs[0].name
    assert {n: list(v.shape) for n, v in values.items()} == {n: t[n].shape for n in values}
    assert values['i'].dtype == np.int64 and values['embed.weight'].shape == (6, 4)
    assert list(values).index('embed.weight') == list(values).index('embed') - 1


class Joined(nn.Module):
    "Its answer only moves numbers, and some are constants"
    def forward(self, x): return F.pad(torch.stack([x, x + 1]).transpose(0, 2), (1, 0), value=7.), x.relu()

def test_an_answer_that_only_moves_numbers(tmp_path):
    model, x = Joined().eval(), torch.randn(2, 3)
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    agree(read_values(path), model, [x])
    agree(by_formulas(path), model, [x])


def test_a_large_model_has_a_sheet_for_each_layer(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(8 * 28 * 28, 4)).eval()
    x = torch.randn(1, 3, 32, 32)
    path = to_spreadsheet(net, x, path=tmp_path/'a.xlsx')
    assert openpyxl.load_workbook(path, read_only=True).sheetnames == ['map', 'input', '0', '2', '5', 'index']
    expected = net.double()(x.double()).detach().numpy()
    np.testing.assert_allclose(list(read_values(path).values())[-1], expected, **close)


def test_text_that_looks_like_a_formula_is_text(tmp_path):
    class Odd(nn.Module):
        def __init__(self): super().__init__(); self.add_module("=1+1[]:*?/'" + 'x' * 40, nn.Linear(2, 4))
        def forward(self, x): return next(self.children())(x)
    classes = ['=cmd()', '+1', '-2', '@SUM(A1)']
    options = dict(classes=classes, title='=2+2')
    path = to_spreadsheet(Odd().eval(), torch.randn(1, 2), path=tmp_path/'a.xlsx', **options)
    book = openpyxl.load_workbook(path)
    cells = [c for ws in book for row in ws.iter_rows() for c in row]
    texts = {c.value: c.data_type for c in cells if isinstance(c.value, str)}
    for t in [*classes, '=2+2']: assert texts[t] == 's', t
    assert book['map']['K2'].data_type == 'f'
    for f in all_formulas(path).values(): assert 'cmd' not in f


@pytest.mark.parametrize('path', ['layers.0', "a'b", 'History', 'map', 'x' * 50, 'Map', '[a]', '', 'fc1'])
def test_sheet_names_and_range_names_are_valid(path):
    taken = ['layers.0', 'x' * 31]
    name = spreadsheet._sheet_name(path, taken)
    assert 0 < len(name) <= 31 and not set(name) & set("[]:*?/\\'")
    assert name.lower() not in {t.lower() for t in [*taken, 'map', 'index', 'history']}


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model, x = Residual().eval(), small_picture()
    a, b = (to_spreadsheet(model, x, path=tmp_path/n) for n in ('a.xlsx', 'b.xlsx'))
    assert a.read_bytes() == b.read_bytes()


def test_names_and_decimals(tmp_path):
    path = to_spreadsheet(nn.Linear(2, 2).eval(), torch.randn(1, 2), path=tmp_path/'a.xlsx', decimals=1,
                          names={'input': 'two numbers'})
    book = openpyxl.load_workbook(path)
    assert book['model']['A2'].value == 'two numbers' and 'input' in read_values(path)
    assert book['model'][read_cells(path)['input'][0, 0].split('!')[1]].number_format == '0.0'
    with pytest.raises(ValueError, match="no step 'inptu'; the steps are input, linear"):
        to_spreadsheet(nn.Linear(2, 2).eval(), torch.ones(1, 2), path=tmp_path/'b.xlsx', names={'inptu': ''})
    assert not (tmp_path/'b.xlsx').exists()


class Late(nn.Module):
    "A dense layer, what makes its chances, and something after it"
    def __init__(self, makes, after):
        super().__init__(); self.layer, self.makes, self.after = nn.Linear(3, 2), makes, after
    def forward(self, x): return self.after(self.makes(self.layer(x)))

@pytest.mark.parametrize('makes, after, columns', [
    (nn.Softmax(-1), lambda p: p[:, -1], 2), (nn.Softmax(-1), lambda p: p.flip(1).transpose(0, 1)[-1], 2),
    (nn.Sigmoid(), lambda p: torch.cat([p[:, :1], p[:, 1:]], 1)[:, 0], 2),
    (nn.LogSoftmax(-1), lambda p: p[:, -1], 3), (nn.Identity(), lambda p: p[:, -1], 3),
    (nn.Softmax(-1), lambda p: (p + 0)[:, -1], 3)],
    ids=['softmax', 'turned', 'sigmoid joined', 'log_softmax', 'logits', 'computed on'])
def test_the_map_knows_chances_that_were_moved(tmp_path, makes, after, columns):
    model, x = Late(makes, after).eval(), torch.randn(1, 4, 3)
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx', classes='ab')
    ws = openpyxl.load_workbook(path, data_only=True)['map']
    heads = ['class', 'probability'] if columns == 2 else ['class', 'answer', 'probability']
    assert [c.value for c in ws[4][9:12] if c.value] == heads
    answer = model(x).flatten().double()
    if columns == 3: answer = answer.softmax(0)              # of log-probabilities: they themselves
    found = [ws.cell(r, 9 + columns).value for r in (5, 6)]
    np.testing.assert_allclose(found, answer.detach(), atol=1e-6)


def footers(path) -> set:
    with zipfile.ZipFile(path) as z:
        sheets = [z.read(n).decode() for n in z.namelist() if n.startswith('xl/worksheets/sheet')]
    return {html.unescape(re.search('<oddFooter>(.*?)</oddFooter>', text, re.DOTALL)[1]) for text in sheets}

@pytest.mark.parametrize('title, left', [
    ('A net', 'A net'), ('3 inputs', ' 3 inputs'), ('cats & dogs', 'cats && dogs'), ('x' * 300, 'x' * 200),
    ('x' + '&' * 300, 'x' + '&&' * 99)], ids=['plain', 'digit', 'ampersand', 'long', 'ampersands'])
def test_the_title_in_the_footer(tmp_path, title, left):
    path = to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'a.xlsx', title=title)
    expected = {f'&L&8{left}&R&8&A  &P/&N'}
    assert footers(path) - {'&L&8ReLU&R&8&A  &P/&N'} == expected       # that of the sheet `index`


# errors

def broken(value, where):
    model, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval(), torch.ones(1, 2)
    with torch.no_grad():
        if where == 'input': x[0, 1] = value
        else: model[0].weight[1, 0] = value
    return model, x

@pytest.mark.parametrize('value, where, text', [
    (np.nan, 'weight', r'the weight 0.weight holds nan at \[1, 0\]'),
    (np.inf, 'input', r'the input input holds inf at \[0, 1\]')])
def test_no_cell_holds_nan_or_infinity(tmp_path, value, where, text):
    model, x = broken(value, where)
    with pytest.raises(ValueError, match=text): to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    assert not list(tmp_path.iterdir())

class Takes(nn.Module):
    "A function as a model"
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, x): return self.f(x)

endless = float('inf')

@pytest.mark.parametrize('f, text', [
    (lambda x: (x - 1).log(), r'activation log \(log, in {}\) holds -inf at \[0\]'),
    (lambda x: x.masked_fill(x > 0, -endless).softmax(0), r'which where \(where, in {}\) takes, .* no inf'),
    (lambda x: F.pad(x, (1, 1), value=-endless).amax(0), r'amax \(amax, in {}\) computes with -inf, and a f'),
    (lambda x: x.clamp(max=endless) + 1, r'clamp \(clamp, in {}\) computes with inf, and a formula'),
    (lambda x: x + torch.tensor([1., endless]), r'which add \(add, in {}\) takes, holds inf at \[1\]')],
    ids=['log', 'mask', 'pad', 'clamp', 'constant'])
def test_a_step_that_is_not_finite_is_named_with_its_line(tmp_path, f, text):
    line = r'test_spreadsheet.py:\d+: .*self.f\(x\)'
    with pytest.raises(ValueError, match=text.format(line)):
        to_spreadsheet(Takes(f).eval(), torch.ones(2), path=tmp_path/'a.xlsx')
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('value', [endless, -endless, np.nan])
def test_comparisons_with_infinity_are_known(tmp_path, value):
    def f(x):
        return torch.stack([x == value, x != value, x > value, x >= value, x < value, x <= value]).double()
    model, x = Takes(f).eval(), torch.randn(2)
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    agree(by_formulas(without_values(path, tmp_path/'b.xlsx')), model, [x])

def test_a_mask_that_is_finite_makes_a_workbook(tmp_path):
    layer, x = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).eval(), torch.randn(1, 3, 4)
    mask = torch.triu(torch.full((3, 3), -endless), 1)
    class Causal(nn.Module):
        def __init__(self, mask): super().__init__(); self.layer, self.mask = layer, mask
        def forward(self, x): return self.layer(x, src_mask=self.mask)
    with pytest.raises(ValueError, match='Excel has no infinity; in a mask, -1e9'):
        to_spreadsheet(Causal(mask).eval(), x, path=tmp_path/'a.xlsx')
    finite = Causal(mask.clamp(min=-1e9)).eval()
    torch.testing.assert_close(finite(x), Causal(mask).eval()(x))
    path = to_spreadsheet(finite, x, path=tmp_path/'a.xlsx')
    agree(by_formulas(without_values(path, tmp_path/'b.xlsx')), finite, [x])


def test_what_trace_says_comes_through(tmp_path):
    with pytest.raises(ValueError, match='training mode'):
        to_spreadsheet(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), torch.ones(1, 2), path=tmp_path/'a.xlsx')
    with pytest.raises(ValueError, match='does not run'):
        to_spreadsheet(nn.Linear(2, 2), torch.ones(1, 3), path=tmp_path/'a.xlsx')
    assert not list(tmp_path.iterdir())


def test_limits_are_checked_before_anything_is_written(tmp_path, monkeypatch):
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), small_picture()
    with pytest.raises(ValueError, match=r'128 cells with formulas, more than max_cells=100; most .* in 0'):
        to_spreadsheet(net, x, path=tmp_path/'a.xlsx', max_cells=100)
    with pytest.raises(ValueError, match=r'cells with numbers, .*in weight: \[40, 40\]'):
        to_spreadsheet(nn.Linear(40, 40), torch.ones(1, 40), path=tmp_path/'a.xlsx', max_cells=1000)
    monkeypatch.setattr(spreadsheet, 'max_rows', 12)
    with pytest.raises(ValueError, match='would reach row .* in the layer|in the layer .* would reach row'):
        to_spreadsheet(net, x, path=tmp_path/'a.xlsx')
    monkeypatch.undo()
    monkeypatch.setattr(spreadsheet, 'max_columns', 9)
    with pytest.raises(ValueError, match='smaller input'): to_spreadsheet(net, x, path=tmp_path/'a.xlsx')
    monkeypatch.undo()
    monkeypatch.setattr(spreadsheet, 'max_formula', 40)
    with pytest.raises(ValueError, match=r'a formula of 0 \(convolution\) would have'):
        to_spreadsheet(net, x, path=tmp_path/'a.xlsx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('f, name', [
    (lambda x: x.mean(1), 'mean'), (lambda x: x.amax(1), 'amax'), (lambda x: x.softmax(1), 'softmax.exp')])
def test_a_function_takes_255_arguments(tmp_path, f, name):
    text = rf'a formula of {name} \(.*\) would give 256 arguments to a function, and in Excel .* takes 255'
    with pytest.raises(ValueError, match=text):
        to_spreadsheet(Takes(f).eval(), torch.randn(1, 256, 2, 2), path=tmp_path/'a.xlsx')
    assert not list(tmp_path.iterdir())
    model, x = Takes(f).eval(), torch.randn(1, 255, 2, 2)
    path = to_spreadsheet(model, x, path=tmp_path/'a.xlsx')
    agree(read_values(path), model, [x])
    assert all(spreadsheet._arguments(f) <= 255 for f in all_formulas(path).values())
    assert spreadsheet._arguments('+'.join(['SUMPRODUCT(A1:B2,C1:D2)'] * 300)) == 2     # two each, 300 times


def test_too_wide_a_tensor_names_its_layer(tmp_path):
    class Wide(nn.Module):
        def forward(self, x): return x * 2
    with pytest.raises(ValueError, match='16,384'):
        to_spreadsheet(Wide(), torch.ones(2, 16411), path=tmp_path/'a.xlsx')


def test_an_operation_with_no_formula_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(formulas, 'relu')
    with pytest.raises(NotImplementedError, match='the operation relu has no formula'):
        to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'a.xlsx')


def test_a_file_that_is_there_is_not_harmed(tmp_path, monkeypatch):
    path = to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'a.xlsx')
    before = path.read_bytes()
    def fails(*_): raise PermissionError('in use')
    monkeypatch.setattr(os, 'replace', fails)
    with pytest.raises(PermissionError, match='open in a spreadsheet program'):
        to_spreadsheet(nn.Tanh(), torch.ones(2), path=path)
    monkeypatch.undo()
    monkeypatch.setattr(spreadsheet, '_write_index', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): to_spreadsheet(nn.Tanh(), torch.ones(2), path=path)
    monkeypatch.undo()
    (tmp_path/'.~lock.a.xlsx#').write_text('')
    with pytest.raises(PermissionError, match='is open'): to_spreadsheet(nn.Tanh(), torch.ones(2), path=path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.~lock.a.xlsx#', 'a.xlsx']


def test_paths(tmp_path, monkeypatch):
    def write(path): return to_spreadsheet(nn.ReLU(), torch.ones(2), path=path)
    with pytest.raises(ValueError, match='ends in .xlsx'): write(tmp_path/'a.xls')
    with pytest.raises(FileNotFoundError, match='no folder'): write(tmp_path/'nowhere'/'a.xlsx')
    (tmp_path/'b.xlsx').mkdir()
    with pytest.raises(IsADirectoryError): write(tmp_path/'b.xlsx')
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(PermissionError, match='cannot be written'): write(tmp_path/'a.xlsx')
    monkeypatch.undo()
    assert write(str(tmp_path/'a.xlsx')) == tmp_path/'a.xlsx'
    assert not list(tmp_path.glob('.lessondl*'))


def test_classes_must_fit(tmp_path):
    with pytest.raises(ValueError, match='3 class names for an answer of 2 numbers'):
        to_spreadsheet(nn.Linear(2, 2), torch.ones(1, 2), path=tmp_path/'a.xlsx', classes='abc')


def test_reading_what_is_no_such_workbook(tmp_path):
    (tmp_path/'a.xlsx').write_text('no workbook')
    with pytest.raises(ValueError, match='no workbook'): read_values(tmp_path/'a.xlsx')
    openpyxl.Workbook().save(tmp_path/'b.xlsx')
    with pytest.raises(ValueError, match='not written by to_spreadsheet'): read_values(tmp_path/'b.xlsx')
    path = to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'c.xlsx')
    with pytest.raises(ValueError, match='holds no value: recalculate'):
        read_values(without_values(path, tmp_path/'d.xlsx'))
    with pytest.raises(FileNotFoundError): recalculate(tmp_path/'e.xlsx')


def test_without_libreoffice_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    path = to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'a.xlsx')
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    monkeypatch.setattr(spreadsheet, '_mac', '/nowhere/soffice')
    with pytest.raises(FileNotFoundError, match='apt-get install'): recalculate(path)


def test_recalculate_writes_where_it_is_told_and_never_over_the_source(tmp_path, monkeypatch):
    path = to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'a.xlsx')
    before, other = path.read_bytes(), tmp_path/'other'
    def _libreoffice(sources, folder): (folder/'a.xlsx').write_bytes(b'new'); return [folder/'a.xlsx']
    monkeypatch.setattr(spreadsheet, '_libreoffice', _libreoffice)
    for out in (tmp_path, str(tmp_path), tmp_path/'other'/'..'):
        other.mkdir(exist_ok=True)
        with pytest.raises(ValueError, match='folder of a.xlsx itself'): recalculate(path, out)
    for out in ('nowhere', 'b', 'b.xls', 'b.xlsx.bak'):
        with pytest.raises(ValueError, match=f'file ending in .xlsx, but it is .*{out}'):
            recalculate(path, tmp_path/out)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ['a.xlsx', 'other']
    assert recalculate(path, other) == other/'a.xlsx'
    assert recalculate(path, tmp_path/'b.xlsx') == tmp_path/'b.xlsx'
    assert recalculate(path).name == 'a.xlsx' and path.read_bytes() == before
    assert recalculate(path, path).read_bytes() == b'new'             # only where it is named itself


def without_rows(book): book['model'].delete_rows(4, 100)
def without_columns(book): book['model'].delete_cols(4, 100)
def empty(book):
    for ws in book: ws.delete_rows(1, 1000)
def without_a_sheet(book): del book['model']
def another_word(book): book['map']['K2'].value = 'dog'
def another_number(book): book['map']['K5'].value += 1e-6
def an_error(book): book['map']['K5'].value = '#DIV/0!'
def one_more(book): book['map']['K50'].value = 3
def shorter(book): book['map']['J6'].value = None

@pytest.mark.parametrize('change', [without_rows, without_columns, empty, without_a_sheet, another_word,
                                    another_number, an_error, one_more, shorter])
def test_check_workbook_fails_where_the_files_differ(tmp_path, change):
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(1, 3)
    path = to_spreadsheet(net, x, path=tmp_path/'a.xlsx', classes=['cat', 'bird'])
    same = openpyxl.load_workbook(path, data_only=True)      # values for formulas, as programs hand them back
    same.save(tmp_path/'same.xlsx')
    assert check_workbook(path, tmp_path/'same.xlsx') < 1e-12
    change(same)
    same.save(tmp_path/'b.xlsx')
    with pytest.raises(ValueError, match='a.xlsx: .*recalculated'): check_workbook(path, tmp_path/'b.xlsx')


def test_check_workbook_needs_stored_values(tmp_path):
    path = to_spreadsheet(nn.ReLU(), torch.ones(2), path=tmp_path/'a.xlsx')
    bare = without_values(path, tmp_path/'b.xlsx')
    with pytest.raises(ValueError, match='b.xlsx: .* nothing, recalculated 1'): check_workbook(bare, path)
    with pytest.raises(ValueError, match='a.xlsx: .* 1.0, recalculated nothing'): check_workbook(path, bare)
    book = openpyxl.Workbook(); book.active['A1'] = 'text'; book.save(tmp_path/'c.xlsx')
    with pytest.raises(ValueError, match='c.xlsx holds no stored values'):
        check_workbook(tmp_path/'c.xlsx', tmp_path/'c.xlsx')


# LibreOffice

def random_model(rng):
    "A small model of a random kind, with its inputs"
    kind = rng.integers(4)
    if kind == 0:
        cell, both = [nn.RNN, nn.GRU, nn.LSTM][rng.integers(3)], bool(rng.integers(2))
        model = Recurrent(cell, int(rng.integers(1, 3)), both, int(rng.integers(1, 5)))
        return model, [letters(int(rng.integers(1, 3)), int(rng.integers(1, 5)))]
    if kind == 1: return Loop(), [letters(int(rng.integers(1, 3))) for _ in range(rng.integers(1, 4))]
    if kind == 2: return Residual(), [small_picture(int(rng.integers(1, 3)))]
    layers, channels, size = [], 1, 9
    for _ in range(rng.integers(1, 4)):
        k, s, p, out = (int(rng.integers(a, b)) for a, b in ((1, 4), (1, 3), (0, 3), (1, 4)))
        if size + 2 * p >= k:
            layers.append(nn.Conv2d(channels, out, k, s, p, bias=bool(rng.integers(2))))
            channels, size = out, (size + 2 * p - k) // s + 1
        layers.append([nn.ReLU(), nn.Tanh(), nn.GELU(), nn.Sigmoid(), nn.BatchNorm2d(channels), nn.ELU(),
                       nn.Identity()][rng.integers(7)])
        if size >= 4:
            layers.append([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)][rng.integers(3)])
            with torch.no_grad(): size = layers[-1](torch.ones(1, 1, size, size)).shape[-1]
    if rng.integers(2): layers.append(nn.AdaptiveAvgPool2d(1)); size = 1
    last = [nn.Softmax(1), nn.LogSoftmax(1), nn.Identity()][rng.integers(3)]
    layers += [nn.Flatten(), nn.Linear(channels * size * size, 3), last]
    return nn.Sequential(*layers), [torch.randn(int(rng.integers(1, 3)), 1, 9, 9)]


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which('soffice'), reason='LibreOffice is not installed')
def test_sixty_random_models_in_libreoffice(tmp_path):
    rng, sources, models = np.random.default_rng(0), [], []
    for i in range(60):
        model, inputs = random_model(rng)
        for k, b in model.named_buffers():
            if 'running' in k: b.uniform_(.5, 2)
        model.eval()
        path = to_spreadsheet(model, *inputs, path=tmp_path/f'{i}.xlsx')
        agree(read_values(path), model, inputs)
        # from now on the model is the edited one
        model_edited(path, model, inputs, tmp_path/f'{i}_edited.xlsx', rng)
        sources += [path, tmp_path/f'{i}_edited.xlsx']
        models.append((model, inputs))
    (tmp_path/'out').mkdir()
    out = spreadsheet._libreoffice(sources, tmp_path/'out')
    for i, (model, inputs) in enumerate(models):
        assert check_workbook(sources[2 * i], out[2 * i]) < 1e-9
        agree(read_values(out[2 * i + 1]), model, inputs)
        for ws in openpyxl.load_workbook(out[2 * i + 1], read_only=True, data_only=True):
            assert not [c for row in ws.iter_rows(values_only=True) for c in row if str(c).startswith('#')]


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which('soffice'), reason='LibreOffice is not installed')
def test_recalculate_and_check(tmp_path):
    net, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).eval(), torch.randn(1, 3)
    path = to_spreadsheet(net, x, path=tmp_path/'a.xlsx', classes=['=yes', 'no'])
    assert check_workbook(path) < 1e-12
    assert recalculate(path).parent != tmp_path and sorted(p.name for p in tmp_path.iterdir()) == ['a.xlsx']
    assert recalculate(path, tmp_path/'b.xlsx') == tmp_path/'b.xlsx'
    agree(read_values(tmp_path/'b.xlsx'), net, [x])
    cell = read_cells(path)['2'][0, 1].split('!')[1]
    with zipfile.ZipFile(path) as z: parts = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(tmp_path/'c.xlsx', 'w') as z:       # a formula that is not what its value says
        for n, data in parts.items():
            if n.endswith('sheet2.xml'):
                start = data.index(f'r="{cell}"'.encode())
                data = data[:start] + data[start:].replace(b'<f>', b'<f>0.001+', 1)
            z.writestr(n, data)
    with pytest.raises(ValueError, match='(map|model)!.* recalculated'): check_workbook(tmp_path/'c.xlsx')
