"""The workbooks of the lessons: computed anew by other programs, equal to PyTorch"""
import gc
import hashlib
import importlib.util
import random
from pathlib import Path

import openpyxl
import pytest
import torch
import torch.nn.functional as F
from openpyxl.utils import get_column_letter
from PIL import Image
from torch import nn

from lessondl.spreadsheet import _index, read_values, recalculate

here = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('build', here/'spreadsheets'/'build.py')
build = importlib.util.module_from_spec(spec); spec.loader.exec_module(build)
written = ['convolution', 'maxpool', 'char_rnn', 'lstm_cell']       # by to_spreadsheet
names = ['softmax', 'entropy', 'gradient_descent', *written]
# openpyxl does not know data bars
pytestmark = pytest.mark.filterwarnings('ignore:.*extension is not supported:UserWarning')
yellow = 'FFFFF2CC'


def committed(name: str) -> Path: return here/'spreadsheets'/f'{name}.xlsx'


def cells(path: Path, stored: bool = False) -> dict:
    "(sheet, address) -> what stands there: formulas and constants, or with `stored` the values"
    wb = openpyxl.load_workbook(path, data_only=stored)
    return {(ws.title, c.coordinate): (c.data_type == 'f' and not stored, c.value)
            for ws in wb for row in ws.iter_rows() for c in row if c.value is not None}


def formula_cells(path: Path) -> list:
    return [at for at, (is_formula, _) in cells(path).items() if is_formula]


def differences(found: dict, expected: dict, tolerance: float = 1e-9) -> list:
    "The cells whose number, or text, is not what it should be"
    def same(a, b):
        if not isinstance(a, (int, float)) or not isinstance(b, (int, float)): return a == b
        return abs(a - b) <= tolerance*(1 + abs(b))
    return [(at, found.get(at), b) for at, b in expected.items() if not same(found.get(at), b)]


# ---- what PyTorch says to each formula cell

class Expected(dict):
    "(sheet, address) -> number"
    def put(self, addresses: list, numbers):
        if isinstance(numbers, torch.Tensor): numbers = numbers.flatten().tolist()
        numbers = [n.item() if isinstance(n, torch.Tensor) else n for n in numbers]
        assert len(addresses) == len(numbers)
        self.update(zip(addresses, numbers))


class Table:
    "Columns by their heading, below a row of rules; beneath them rows named sum and mean"
    def __init__(self, ws, row: int, column: int, totals: int = 0):
        self.ws, self.at, self.letter = ws, {}, {}
        while head := ws.cell(row, column).value:
            r = row + 2
            while ws.cell(r, column).value is not None: r += 1
            self.letter[head] = get_column_letter(column)
            self.at[head] = [(ws.title, f'{self.letter[head]}{i}') for i in range(row + 2, r)]
            column += 1
        self.first = row + 2

    def numbers(self, head: str, n: int) -> torch.Tensor:
        return torch.tensor([float(self.ws[a].value) for _, a in self.at[head][:n]], dtype=torch.float64)

    def cell(self, head: str, row: int) -> tuple:
        return self.ws.title, f'{self.letter[head]}{self.first + row}'


def softmax_says(path: Path) -> Expected:
    ws, e, n = openpyxl.load_workbook(path)['softmax'], Expected(), 5
    top, low = (Table(ws, r, 1) for r in range(1, 60) if ws.cell(r, 1).value == 'class')
    z, t = top.numbers('output', n), top.numbers('actual', n)
    one_by_one, binary = -t*F.log_softmax(z, 0), F.binary_cross_entropy(torch.sigmoid(z), t, reduction='none')
    for table in (top, low):
        exp = (z if table is top else z - z.max()).exp()
        for head, numbers in {'exp': exp, 'softmax': torch.softmax(z, 0), 'cross-entropy': one_by_one,
                              'binary cross-entropy': binary}.items():
            e.put(table.at[head][:n], numbers)
        e.put([table.cell(head, n) for head in ('exp', 'softmax', 'cross-entropy')],
              [exp.sum(), 1, F.cross_entropy(z, t)])
        e.put([table.cell('binary cross-entropy', n + 1)], F.binary_cross_entropy_with_logits(z, t))
    e.put(top.at['sigmoid'][:n], torch.sigmoid(z)); e.put([top.cell('actual', n)], t.sum())
    e.put(low.at['output'][:n], z); e.put(low.at['shifted'][:n], z - z.max())
    e.put(low.at['log softmax'][:n], F.log_softmax(z, 0))
    return e


def entropy_says(path: Path) -> Expected:
    ws, e, n = openpyxl.load_workbook(path)['entropy'], Expected(), 8
    pictures, curve = Table(ws, 5, 1), Table(ws, 5, 8)
    t, p = pictures.numbers('isCat', n), pictures.numbers('prediction', n)
    right = ((p > .5) == (t > .5)).double()
    for head in ('log loss, by IF', 'log loss, by formula'):
        e.put(pictures.at[head][:n], F.binary_cross_entropy(p, t, reduction='none'))
        e.put([pictures.cell(head, n)], F.binary_cross_entropy(p, t))
    e.put(pictures.at['right?'][:n], right); e.put([pictures.cell('right?', n)], right.mean())
    p = curve.numbers('prediction', 15)
    e.put(curve.at['loss of a cat'], F.binary_cross_entropy(p, torch.ones_like(p), reduction='none'))
    e.put(curve.at['loss of a dog'], F.binary_cross_entropy(p, torch.zeros_like(p), reduction='none'))
    return e


optimizers = {
    'SGD': lambda ps, s: torch.optim.SGD(ps, s['rate']),
    'momentum': lambda ps, s: torch.optim.SGD(ps, s['rate'], momentum=s['momentum']),
    'RMSProp': lambda ps, s: torch.optim.RMSprop(ps, s['rate'], alpha=s['alpha'], eps=s['eps']),
    'Adam': lambda ps, s: torch.optim.Adam(ps, s['rate'], betas=(s['beta1'], s['beta2']), eps=s['eps']),
    'cosine': lambda ps, s: torch.optim.SGD(ps, s['rate']),
}
states = {'velocity': 'momentum_buffer', 'mean': 'exp_avg', 'square': 'exp_avg_sq'}


def gradient_descent_says(path: Path) -> Expected:
    wb, e, n = openpyxl.load_workbook(path), Expected(), 20
    points, methods = Table(wb['data'], 5, 1), Table(wb['data'], 5, 5)
    x, y = points.numbers('x', n), points.numbers('y', n)
    a, b = best = torch.linalg.lstsq(torch.stack([x, torch.ones(n)], 1), y[:, None]).solution.flatten()
    e.put(points.at['best line'], a*x + b)
    e.put([methods.cell(head, 5) for head in ('a', 'b', 'after epoch 5')], [*best, F.mse_loss(a*x + b, y)])
    for k, (method, optimizer) in enumerate(optimizers.items()):
        ws = wb[method]
        s = {c.value: ws.cell(6, c.column).value for c in ws[5] if c.value}
        steps, a, b = Table(ws, 8, 1), *torch.tensor([s['start a'], s['start b']], dtype=torch.float64)
        a.requires_grad_(); b.requires_grad_()
        opt = optimizer([a, b], s)
        plan = None
        if 'steps' in s: plan = torch.optim.lr_scheduler.CosineAnnealingLR(opt, s['steps'], s['lowest rate'])
        e.put([steps.cell('a', 0), steps.cell('b', 0)], [a, b])
        e.put([methods.cell('rate', k)], [s['rate']])
        e.put([methods.cell('loss at the start', k)], F.mse_loss(a*x + b, y))
        for step in range(1, 5*n + 1):
            i = (step - 1) % n
            prediction = a*x[i] + b
            loss = F.mse_loss(prediction, y[i])
            opt.zero_grad(); loss.backward()
            row = {'x': x[i], 'y': y[i], 'prediction': prediction, 'error': prediction - y[i], 'loss': loss,
                   'gradient a': a.grad, 'gradient b': b.grad}
            if plan: row['rate now'] = plan.get_last_lr()[0]
            opt.step()
            if plan: plan.step()
            for head in steps.at:
                if (what := head.split()[0]) not in states: continue
                state, key = opt.state[a if head.endswith('a') else b], states[what]
                row[head] = state[key if key in state else 'square_avg']
            e.put([steps.cell(head, step) for head in [*row, 'a', 'b']], [*row.values(), a, b])
            if step % n == 0: e.put([methods.cell(f'after epoch {step//n}', k)], F.mse_loss(a*x + b, y))
        e.put([methods.cell('a', k), methods.cell('b', k)], [a, b])
    return e


def convolution_says(v: dict) -> dict:
    out = {'conv1': F.conv2d(v['x'], v['conv1.weight'])}
    out['relu'] = F.relu(out['conv1'])
    out['conv2'] = F.conv2d(out['relu'], v['conv2.weight'])
    out['relu_2'] = F.relu(out['conv2'])
    out['pool'] = F.max_pool2d(out['relu_2'], 2)
    return out | {'dense': F.linear(out['pool'].flatten(1), v['dense.weight'], v['dense.bias'])}


def maxpool_says(v: dict) -> dict: return {'max_pool2d': F.max_pool2d(v['input'], 2)}


def char_rnn_says(v: dict) -> dict:
    out, h = {}, 0.
    for k, end in enumerate(('', '_2', '_3'), 1):
        out['embed.embedding' + end] = F.embedding(v[f'char{k}'], v['embed.weight'])
        out['into.linear' + end] = F.linear(out['embed.embedding' + end], v['into.weight'], v['into.bias'])
        out['relu' + end] = h_in = F.relu(out['into.linear' + end])
        if k > 1: out['add' if k == 2 else 'add_2'] = h_in = h + h_in
        out['hidden.linear' + end] = F.linear(h_in, v['hidden.weight'], v['hidden.bias'])
        out['tanh' + end] = h = torch.tanh(out['hidden.linear' + end])
    out['out'] = F.linear(h, v['out.weight'], v['out.bias'])
    z = out['out']
    return out | {'softmax.exp': (z - z.max()).exp(), 'softmax': torch.softmax(z, -1)}


def lstm_cell_says(v: dict) -> dict:
    lstm = nn.LSTM(2, 3).double()
    for name, p in lstm.named_parameters(): p.data = v[f'lstm.{name}']
    with torch.no_grad(): _, (h, c) = lstm(v['x'], (v['h'], v['c']))
    into = F.linear(v['x'], v['lstm.weight_ih_l0'], v['lstm.bias_ih_l0'])
    kept = F.linear(v['h'], v['lstm.weight_hh_l0'], v['lstm.bias_hh_l0'])
    i, f, g, o = (into + kept).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    return {'lstm.linear': into, 'lstm.linear_2': kept, 'lstm.add': into + kept, 'lstm.sigmoid': i,
            'lstm.sigmoid_2': f, 'lstm.tanh': g, 'lstm.sigmoid_3': o, 'lstm.mul': f*v['c'],
            'lstm.mul_2': i*g, 'lstm.add_2': c, 'lstm.tanh_2': c.tanh(), 'lstm.mul_3': h, 'lstm.view': h,
            'lstm.view_2': c}


def pytorch_says(name: str, path: Path, calculated: dict) -> Expected:
    "Every formula cell of a workbook by PyTorch in float64, from the inputs and weights that stand in it"
    if name not in written: return globals()[f'{name}_says'](path)
    e, given, places = Expected(), cells(path), {}
    for row in _index(path):
        at = [(row['sheet'], f'{get_column_letter(int(c) + 1)}{int(r) + 1}')
              for r, c in zip(row['rows'], row['cols'])]
        places[row['name']] = at, row
    kinds = dict(float=torch.float64, int=torch.int64)
    v = {key: torch.tensor([given[a][1] for a in at], dtype=kinds[row['type']]).reshape(row['shape'])
         for key, (at, row) in places.items() if row['what'] in ('input', 'weight')}
    says = globals()[f'{name}_says'](v)
    assert set(says) == set(places) - set(v)
    for key, numbers in says.items(): e.put(places[key][0], numbers)
    answer = next(says[key] for key, (_, row) in places.items() if row['what'] == 'answer')
    shown = [at for at in formula_cells(path) if at[0] == 'map' and at != ('map', 'K2')]     # the answer
    e.put(shown, answer.flatten()[:len(shown)])
    return e


# ---- other programs compute the workbook anew

def with_the_formulas_package(path: Path, folder: Path) -> dict:
    "Every formula cell computed by `formulas` from a copy in which no value stands beside a formula"
    import formulas
    bare = folder/path.name
    openpyxl.load_workbook(path).save(bare)
    gc.disable()                                           # a quarter of the time went there
    try: solution = formulas.ExcelModel().loads(str(bare)).finish().calculate()
    finally: gc.enable()
    return {(sheet, at): solution[f"'[{bare.name}]{sheet.upper()}'!{at}"].value[0, 0]
            for sheet, at in formula_cells(path)}


def with_libreoffice(path: Path, folder: Path) -> dict:
    return {at: value for at, (_, value) in cells(recalculate(path, folder), stored=True).items()}


def check(name: str, path: Path, calculated: dict):
    "No error, and each formula cell as PyTorch says"
    says = pytorch_says(name, path, calculated)
    assert set(formula_cells(path)) - set(says) <= {('map', 'K2')}         # the name of the likeliest class
    errors = [(at, v) for at, v in calculated.items() if isinstance(v, str) and v.startswith('#')]
    assert errors == []
    assert differences(calculated, says)[:5] == []


def edited(name: str, folder: Path, seed: int) -> Path:
    "A copy in which every input and every weight has another number"
    wb, draw = openpyxl.load_workbook(committed(name)), random.Random(seed)
    if name in written:
        for row in _index(committed(name)):
            if row['what'] not in ('input', 'weight'): continue
            for r, c in zip(row['rows'], row['cols']):
                cell = wb[row['sheet']].cell(int(r) + 1, int(c) + 1)
                cell.value = draw.randrange(4) if row['type'] == 'int' else cell.value + draw.gauss(0, .3)
    else:
        for cell in (c for ws in wb for row in ws.iter_rows() for c in row if c.fill.fgColor.rgb == yellow):
            above = (cell.parent.cell(r, cell.column).value for r in range(cell.row - 1, 0, -1))
            head = next(text for text in above if isinstance(text, str) and text)
            if head in ('actual', 'isCat'): cell.value = draw.randrange(2)
            elif head == 'prediction': cell.value = draw.uniform(.02, .98)
            elif head == 'lowest rate': cell.value = .002
            elif head in ('output', 'x', 'y', 'start a', 'start b'): cell.value += draw.gauss(0, .3)
            elif head != 'steps': cell.value *= draw.uniform(.8, 1)
    wb.save(folder/f'{name}.xlsx')
    return folder/f'{name}.xlsx'


@pytest.mark.parametrize('name', names)
def test_rebuilt_it_equals_what_is_committed(name, tmp_path):
    new, = build.build([name], tmp_path)
    assert cells(new) == cells(committed(name))
    stored = [{at: value for at, (_, value) in cells(p, stored=True).items()} for p in (new, committed(name))]
    assert set(stored[0]) == set(stored[1]) and differences(*stored, tolerance=1e-12) == []
    defined = [{k: d.attr_text for k, d in openpyxl.load_workbook(p).defined_names.items()}
               for p in (new, committed(name))]
    assert defined[0] == defined[1]


@pytest.mark.parametrize('name', names)
def test_stored_values_equal_pytorch(name):
    stored = {at: value for at, (_, value) in cells(committed(name), stored=True).items()}
    check(name, committed(name), {at: stored[at] for at in formula_cells(committed(name))})


@pytest.mark.parametrize('name', names)
def test_the_formulas_package_computes_what_pytorch_does(name, tmp_path):
    assert len(formula_cells(committed(name))) <= 10_000
    check(name, committed(name), with_the_formulas_package(committed(name), tmp_path))


@pytest.mark.parametrize('name', ['softmax', 'entropy', 'maxpool', 'char_rnn', 'lstm_cell'])
def test_the_formulas_package_after_an_edit(name, tmp_path):
    (tmp_path/'edited').mkdir()
    path = edited(name, tmp_path/'edited', seed=1)
    check(name, path, with_the_formulas_package(path, tmp_path))


@pytest.mark.e2e
@pytest.mark.parametrize('name', names)
def test_libreoffice_computes_what_pytorch_does(name, tmp_path):
    calculated = with_libreoffice(committed(name), tmp_path)
    check(name, committed(name), {at: calculated.get(at) for at in formula_cells(committed(name))})


@pytest.mark.e2e
@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('name', names)
def test_libreoffice_after_an_edit(name, seed, tmp_path):
    (tmp_path/'edited').mkdir()
    path = edited(name, tmp_path/'edited', seed)
    calculated = with_libreoffice(path, tmp_path)
    check(name, path, {at: calculated.get(at) for at in formula_cells(path)})


def test_a_wrong_formula_is_found(tmp_path):
    wb = openpyxl.load_workbook(committed('softmax'))
    assert wb['softmax']['D7'].value == '=C7/SUM($C$7:$C$11)'
    wb['softmax']['D7'] = '=C7/SUM($C$7:$C$10)'
    (tmp_path/'wrong').mkdir(); wb.save(tmp_path/'wrong'/'softmax.xlsx')
    path = tmp_path/'wrong'/'softmax.xlsx'
    with pytest.raises(AssertionError, match="'D7'"):
        check('softmax', path, with_the_formulas_package(path, tmp_path))
    assert cells(path) != cells(committed('softmax'))


# ---- what the workbooks open on, and how they look

def test_the_numbers_of_the_lecture():
    ws = openpyxl.load_workbook(committed('softmax'), data_only=True)['softmax']
    table = Table(ws, 5, 1)
    assert table.numbers('output', 5).tolist() == [1.60, 1.10, -0.54, -3.71, 0.50]
    assert [a.value for a in ws['A'][6:11]] == ['cat', 'dog', 'plane', 'fish', 'building']
    assert table.numbers('actual', 5).tolist() == [0, 1, 0, 0, 0]
    assert round(ws[table.cell('cross-entropy', 5)[1]].value, 2) == 1.22
    assert read_values(committed('maxpool'))['max_pool2d'].tolist() == [[[[6, 8], [3, 4]]]]
    v = read_values(committed('convolution'))
    assert v['x'].shape == (1, 1, 28, 28) and v['conv2.weight'].shape == (2, 2, 3, 3)
    assert v['dense'] > 0 and read_values(committed('char_rnn'))['softmax'].argmax() == 'helo'.index('l')


def test_text_is_text_whatever_it_begins_with(tmp_path):
    book = build.new_book('text', tmp_path)
    sheet = build.Sheet(book, 'text', '=1+1', ['+1', '-1', '@A1'], [9])
    sheet.heads(5, 0, {'=head': '-x'})
    book.close()
    read = cells(tmp_path/'text.xlsx')
    found = [read['text', f'A{r}'] for r in (1, 2, 3, 4, 6)]
    assert found == [(False, t) for t in ('=1+1', '+1', '-1', '@A1', '=head')]


@pytest.mark.parametrize('name', names)
def test_pictures_show_the_committed_workbook(name):
    images = here/'nbs'/'images'
    pictures = [*images.glob(f'sheet_{name}.png'), *images.glob(f'sheet_{name}_[0-9].png')]
    assert len(pictures) == len(build.pictures[name][1])
    for path in pictures:
        assert path.stat().st_size < 150_000
        with Image.open(path) as picture: shown = picture.text['workbook']
        assert shown == hashlib.sha256(committed(name).read_bytes()).hexdigest(), \
            f'{path.name} shows an older workbook: python spreadsheets/build.py {name} --render'
