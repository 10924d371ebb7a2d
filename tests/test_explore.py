"The page computes what PyTorch computes: explore.js run by Node over many models; what goes into a page"
import base64
import datetime
import io
import json
import math
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_trace import random_model
from torch import nn

from lessondl import cnn, schedules
from lessondl.explore import (
    _script,
    _workbook,
    augmentation_explorer,
    explore,
    explore_html,
    kernel_explorer,
    payload,
    recomputed,
    schedule_explorer,
    schedule_kinds,
    schedule_rates,
    softmax_explorer,
)
from lessondl.spreadsheet import read_cells, to_spreadsheet
from lessondl.trace import operations, trace

root = Path(__file__).resolve().parent.parent
node = shutil.which('node')
needs_node = pytest.mark.skipif(not node, reason='Node is not installed, which runs explore.js by itself')


def run(script: str, data):
    "What the script, given `data` and all that explore.js exports, returns."
    code = f'''const engine = require({json.dumps(str(root/'lessondl/explore.js'))})
        const data = JSON.parse(require('fs').readFileSync(0, 'utf8'))
        const text = x => Number.isFinite(x) ? x : String(x)
        const plain = (k, v) => ArrayBuffer.isView(v) ? Array.from(v, text) : v
        process.stdout.write(JSON.stringify((({{ {script} }}).go)(data, engine), plain))'''
    done = subprocess.run([node, '-e', code], input=json.dumps(data), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Gates(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.embed, self.loop = nn.Embedding(11, 5), kind(5, 6, **how)
        self.out = nn.Linear(12 if how.get('bidirectional') else 6, 11)

    def forward(self, x):
        y, _ = self.loop(self.embed(x))
        return F.log_softmax(self.out(y), -1)


class Pointwise(nn.Module):
    def forward(self, x):
        y = torch.where(x > 0.2, x, x*2 - 1)
        y = y + torch.erf(x) + F.gelu(x) + F.gelu(x, approximate='tanh') + F.elu(x) + F.leaky_relu(x, .2)
        y = y + x.clamp(-.3, .4) + x.abs().sqrt() + (x**2).log1p() - (x.abs() + 1).log() + torch.expm1(x)
        y = y/(x.exp() + 1) + F.silu(x) + F.hardtanh(x) + torch.sin(x) - torch.cos(x) + (x.abs() + 1).rsqrt()
        y = y + x.mean(-1, keepdim=True) + x.amax(1, keepdim=True) + x.sum((0, 2), keepdim=True) - (-x).relu()
        y = y*(x <= .1) + y*(x != .5)*(x >= 0) + torch.add(x, y, alpha=3)
        y = y + torch.div(x, .3, rounding_mode='floor')
        return (torch.softmax(y, 1), y.sum(), y.mean(0), torch.maximum(y, x).amin(-1),
                y @ x.transpose(-1, -2), torch.minimum(x, y).log_softmax(0), x.max(), x.var(1),
                x.var(correction=0), x.sign().trunc(), (x > 0).any(2), (x > 0).logical_not(),
                x.clamp(min=0.1) < x.clamp(max=1.))


class Pools(nn.Module):
    def forward(self, x):
        return (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2, ceil_mode=True),
                F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), F.adaptive_avg_pool2d(x, 3),
                F.max_pool2d(x, 2, 1, dilation=2), F.adaptive_max_pool2d(x, (2, 3)),
                F.pad(x, (1, 2, 0, 1), value=.5))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2), groups=2, dilation=(1, 2))
        self.b, self.c = nn.Conv1d(6, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4, padding='same')
        self.norm, self.layer = nn.BatchNorm2d(4), nn.LayerNorm([5, 6])
        self.d, self.e = nn.Conv3d(1, 2, 2, stride=2), nn.Conv2d(4, 2, 1, padding=1)

    def forward(self, x):
        y = self.a(x)
        return (self.b(y.flatten(2)), self.norm(self.c(x)).relu(), self.layer(x[..., :5, :6]).tanh(),
                self.d(x[:, None]), self.e(x))


def models():
    torch.manual_seed(0)
    picture = torch.randn(1, 3, 32, 32)
    yield 'SimpleNet', cnn.SimpleNet([3072, 20, 10]), picture
    yield 'ConvNet', cnn.ConvNet([3, 8, 12], 10), picture
    yield 'ConvNet2', cnn.ConvNet2([3, 8, 12], 10), picture
    yield 'ConvBnNet', cnn.ConvBnNet([4, 8, 12], 10), picture
    yield 'ConvBnNet2', cnn.ConvBnNet2([4, 8], 10), picture
    yield 'Resnet', cnn.Resnet([4, 8], 10), picture
    yield 'Resnet2', cnn.Resnet2([4, 8, 12], 10), picture
    digits = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                           nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                           nn.Flatten(), nn.Linear(392, 10), nn.Softmax(-1))
    yield 'digits', digits, torch.randn(1, 1, 28, 28)
    yield 'RNN', Gates(nn.RNN), torch.randint(11, (4, 1))
    yield 'GRU', Gates(nn.GRU, num_layers=2), torch.randint(11, (4, 2))
    yield 'LSTM', Gates(nn.LSTM, bidirectional=True), torch.randint(11, (3, 1))
    yield 'pointwise', Pointwise(), torch.randn(3, 5, 4)
    yield 'pools', Pools(), torch.randn(1, 2, 7, 8)
    yield 'convolutions', Convolutions(), torch.randn(2, 4, 8, 9)


@pytest.fixture(scope='module')
def traced():
    out = {}
    for name, model, x in models():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(); m.running_var.uniform_(.5, 2)
        out[name] = trace(model.eval(), x)
    return out


def close(given, expected: torch.Tensor):
    expected = expected.detach().float().flatten().numpy()
    return np.allclose(np.array(given, dtype=float), expected, rtol=1e-4, atol=1e-4)


@needs_node
def test_python_knows_which_operations_the_page_computes():
    assert set(run('go: (data, { operations }) => Object.keys(operations)', None)) == recomputed


@needs_node
def test_every_step_equals_pytorch(traced):
    given = run('go: (nets, { Net }) => nets.map(n => new Net(n).tensors.map(s => s.values))',
                [payload(t) for t in traced.values()])
    for (name, t), values in zip(traced.items(), given):
        tensors = [*t.weights, *t.constants, *t.steps]
        assert [s.name for s, v in zip(tensors, values) if not close(v, s.value)] == [], name
    never = recomputed - {s.op for t in traced.values() for s in t.steps}
    assert never <= set('addmm mm clamp_min clamp_max min eq reciprocal'.split()), never


@needs_node
def test_random_models_equal_pytorch():
    "Those by which `trace` itself is tested"
    traces = [trace(model, *inputs) for model, inputs in map(random_model, range(12))]
    given = run('go: (nets, { Net }) => nets.map(n => new Net(n).tensors.map(s => s.values))',
                [payload(t) for t in traces])
    for seed, (t, values) in enumerate(zip(traces, given)):
        tensors = [*t.weights, *t.constants, *t.steps]
        assert [s.name for s, v in zip(tensors, values) if not close(v, s.value)] == [], seed


@needs_node
def test_windows_sums_and_lines_of_python_equal_those_of_the_trace(traced):
    "Of each kind of step some numbers: what it reads, the panel's figures, its line of Python, which is run"
    g, asked = torch.Generator().manual_seed(1), {}
    for name, t in traced.items():
        first, seen, asked[name] = len(t.weights) + len(t.constants), {}, []
        for i, s in enumerate(t.steps):
            seen[s.op, s.module] = seen.get((s.op, s.module), 0) + 1
            if s.moves or s.op == 'input' or seen[s.op, s.module] > 2: continue
            some = torch.randint(s.value.numel(), (3,), generator=g).tolist()
            asked[name] += [[first + i, k] for k in some]
    told = run('''go: (nets, { Net, tell }) => nets.map(([p, asked]) => {
        const net = new Net(p)
        return asked.map(([i, k]) => {
            const s = net.tensors[i], told = tell(net, s, k)
            return { ...told, computed: s.computed, figure: told.parts ? told.sum + (told.shift ?? 0) : null }
        }) })''', [[payload(t), asked[name]] for name, t in traced.items()])
    n = 0
    for (_, t), numbers, answers in zip(traced.items(), asked.values(), told):
        for (i, k), a in zip(numbers, answers):
            s = [*t.weights, *t.constants, *t.steps][i]
            index = [int(d) for d in torch.unravel_index(torch.tensor(k), s.value.shape)]
            value = s.value[tuple(index)].item()
            assert a['index'] == index and a['words'].endswith(('.', ')', '%.'))
            if a['computed']:
                assert {r: w.tolist() for r, w in s.window(*index).items()} == a['window'], (s, index)
            if a['figure'] is not None:
                assert math.isclose(a['figure'], value, rel_tol=1e-4, abs_tol=1e-4), s
            given = eval(a['python'], {'t': t, 'torch': torch}).detach().item()
            assert math.isclose(given, value, rel_tol=1e-4, abs_tol=1e-4), (s, a['python'])
            n += 1
    assert n > 400


@needs_node
def test_an_edit_gives_what_pytorch_gives_with_that_kernel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(784, 10), nn.LogSoftmax(-1))
    x, other = torch.randn(2, 1, 1, 28, 28)
    t = trace(net, x)
    assert t.weights[0].name == '0.weight'
    got = run('''go: ([p, other], { Net }) => {
        const net = new Net(p), w = net.tensors[0], before = net.outputs[0].values.slice()
        w.values.set([0, 1, 0, 1, -4, 1, 0, 1, 0], 9 * 2)
        const done = net.run(new Set([w])), after = net.outputs[0].values.slice()
        net.inputs[0].values.set(other); net.run(new Set([net.inputs[0]]))
        return { before, after, last: net.outputs[0].values, done: [...done].map(s => s.name) } }''',
              [payload(t), other.flatten().tolist()])
    assert close(got['before'], net(x))
    with torch.no_grad(): net[0].weight[2, 0] = torch.tensor([[0., 1, 0], [1, -4, 1], [0, 1, 0]])
    assert close(got['after'], net(x)) and close(got['last'], net(other))
    assert '4' in got['done'] and '0' in got['done']


@needs_node
def test_an_operation_that_only_python_knows_keeps_its_numbers(monkeypatch):
    "`trace` learns an operation by an entry in its table; the page does not, and says so."
    monkeypatch.setitem(operations, 'conv_transpose', lambda step, index: {})
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.ReLU()), torch.randn(1, 1, 3, 3)
    got = run('''go: (p, { Net, tell }) => { const net = new Net(p), [up, relu] = net.steps
        net.inputs[0].values.fill(5); net.run(new Set([net.inputs[0]]))
        return { up: up.values, relu: relu.values, ...tell(net, up, 3) } }''', payload(trace(net, x)))
    assert close(got['up'], net[0](x)) and close(got['relu'], net(x))
    assert 'cannot compute “conv_transpose”' in got['words'] and got['window'] == {}


@needs_node
def test_steps_in_time_are_found(traced):
    script = '''go: (p, { Net, inTime }) => inTime(new Net(p).steps)
        .map(part => part.rows ? [part.rows.length, part.rows[0].length] : part.name)'''
    parts = run(script, payload(traced['RNN']))
    assert [p for p in parts if isinstance(p, list)] == [[3, 4]] and parts[0] == 'embed'
    assert [p[1] for p in run(script, payload(traced['GRU'])) if isinstance(p, list)] == [4, 4]
    assert [p[1] for p in run(script, payload(traced['LSTM'])) if isinstance(p, list)] == [3, 3]
    assert all(isinstance(p, str) for p in run(script, payload(traced['Resnet2'])))


@needs_node
def test_numbers_that_are_filled_in():
    class Filled(nn.Module):
        def forward(self, x):
            y = torch.cat([torch.zeros(2, 1), x, torch.ones(2, 2)], 1)
            z = F.pad(x, (1, 0), value=-float('inf'))
            return y*2, z.softmax(1), F.pad(F.pad(x, (1, 1), value=.5), (1, 1), value=-.25) + 1
    t = trace(Filled(), torch.tensor([[1., 2, 3], [4, 5, 6]]))
    explore(Filled(), torch.ones(2, 3))
    outputs = run('go: (p, { Net }) => new Net(p).outputs.map(s => s.values)', payload(t))
    assert all(close(given, o.value) for given, o in zip(outputs, t.outputs))


@needs_node
def test_not_a_number_goes_through_as_in_pytorch():
    x = torch.tensor([[float('nan'), 1., -float('inf'), 2.]])
    t = trace(nn.Sequential(nn.Hardtanh(), nn.ReLU()), x)
    values = run('go: (p, { Net }) => new Net(p).outputs[0].values', payload(t))
    assert values == ['NaN', 1, 0, 1]


# ---- what goes into a page

class Parts(HTMLParser):
    "Scripts, links and pictures of a page, as a browser takes them"
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.scripts, self.where, self.inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.where += [v for k, v in attrs if k in ('src', 'href')]
        assert not [k for k, _ in attrs if k.startswith('on')]
        if tag == 'script': self.inside = True; self.scripts.append('')

    def handle_endtag(self, tag):
        if tag == 'script': self.inside = False

    def handle_data(self, data):
        if self.inside: self.scripts[-1] += data


hostile = ['</script><script>window.hacked = 1</script>', '"quotes" and \'more\'',
           '<img src=x onerror=alert(1)>', '汉字', 'שלום', '<!--', '\u2028\u2029', '']


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Softmax(-1)).eval(), torch.ones(1, 3)


def test_labels_are_text_and_nothing_else(tmp_path):
    (net, x), how = small(), dict(classes=hostile, title=hostile[0], names={'0': hostile[2]})
    file = explore_html(net, x, **how, path=tmp_path/'page.html')
    for page in (explore(net, x, **how).html, file.read_text('utf-8')):
        parts = Parts(page)
        assert len(parts.scripts) == 2 and all(w.startswith('data:image/png;base64,') for w in parts.where)
        data = json.loads(parts.scripts[0])
        assert {k: data[k] for k in how} == how


def test_the_script_asks_for_nothing_and_cannot_end_itself():
    script = (root/'lessondl'/'explore.js').read_text(encoding='utf-8')
    style = (root/'lessondl'/'explore.css').read_text(encoding='utf-8')
    assert '</script' not in script and '<!--' not in script and '</style' not in style
    markup = r'\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|fetch|XMLHttpRequest|import\()'
    assert not re.search(markup, script)
    assert not re.search(r'https?://(?!www\.w3\.org/2000/svg)', script + style)
    assert '@import' not in style and 'url(' not in style
    rules = re.findall(r'(?:^|\})\s*([^{}]+)\{', re.sub(r'/\*.*?\*/', '', style))
    assert len(rules) > 40 and [r for r in rules if not r.startswith('.lessondl-explore')] == []


def test_the_same_net_gives_the_same_page():
    net, x = small()
    page = explore(net, x).html
    assert page == explore(net, x).html
    mark = re.search(r'id="(explore-\w+)"', page)[1]
    with torch.no_grad(): net[0].bias[0] += 1
    assert mark not in explore(net, x).html
    assert 'object at 0x' not in repr(explore(net, x))


def test_a_batch_of_pictures_gives_a_strip():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2*36, 4)).eval()
    x = torch.rand(30, 1, 8, 8)
    data = json.loads(Parts(explore(net, x).html).scripts[0])
    assert len(data['pictures']) == 24 and data['tensors'][-1]['shape'] == [1, 4]
    assert 'pictures' not in json.loads(Parts(explore(net, x[:1]).html).scripts[0])


def test_size_and_time_of_a_large_net():
    page = explore(cnn.Resnet2([16, 32, 64, 128, 256], 10).eval(), torch.zeros(1, 3, 32, 32)).html
    assert 5e6 < len(page) < 16e6


everything = '''go: (p, { Net, Workbook }) => { const net = new Net(p), book = new Workbook(net, p.workbook)
    const all = s => Array.from({ length: s.size }, (_, k) => book.cell(s, k))
    return Object.fromEntries([...net.inputs, ...net.steps].map(s => [s.name, all(s)])) }'''


class Attention(nn.Module):
    "Products of two computed tensors, a sum with factors, numbers that are filled in, a table used twice"
    def __init__(self):
        super().__init__()
        self.table, self.shift = nn.Embedding(5, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, i):
        x = self.table(i)
        a = (x @ x.transpose(-1, -2)/2).softmax(-1) @ x
        b = torch.addmm(self.shift, a[0], x[0].T @ x[0], beta=.5, alpha=-2)
        return F.pad(b, (1, 1), value=-.1).relu() @ F.pad(self.table.weight, (0, 0, 1, 0)).abs()


@needs_node
@pytest.mark.parametrize('name', 'digits ConvBnNet2 LSTM pointwise pools convolutions attention'.split())
def test_cells_and_formulas_are_those_of_the_workbook(name, tmp_path):
    torch.manual_seed(0)
    model, x = Attention(), torch.tensor([[0, 4, 2]])
    if name == 'digits':       # half as large as the one of the lesson
        layers = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.Flatten()
        model, x = nn.Sequential(*layers, nn.Linear(75, 4), nn.LogSoftmax(-1)), torch.randn(1, 1, 14, 14)
    elif name == 'ConvBnNet2': model, x = cnn.ConvBnNet2([3, 4], 10), torch.randn(1, 3, 8, 8)
    elif name != 'attention': model, x = next((m, x) for n, m, x in models() if n == name)
    t = trace(model.eval(), x, dtype=torch.float64)
    given = run(everything, payload(t) | dict(workbook=_workbook(t)))
    path = to_spreadsheet(model, x, path=tmp_path/'net.xlsx')
    cells, book = read_cells(path), openpyxl.load_workbook(path)
    for s in t.steps:
        if s.moves: continue
        for k, at in enumerate(cells[s.name].ravel().tolist()):
            sheet, cell = at.rsplit('!', 1)
            expected = [at] if s.op == 'input' else [at, book[sheet.strip("'")][cell].value]
            assert given[s.name][k] == expected, (s, k)


def test_where_there_is_no_workbook_the_page_says_why():
    def why(net, x): return json.loads(Parts(explore(net.eval(), x).html).scripts[0])['workbook']['none']
    nan = nn.Linear(2, 2)
    with torch.no_grad(): nan.weight[0, 0] = float('nan')
    assert 'holds nan' in why(nan, torch.ones(1, 2))
    assert 'more than max_cells=1,000,000' in why(nn.Linear(1100, 1000), torch.ones(1, 1100))


def test_the_largest_weights_stay_behind(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(1, 4)
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 3)).eval()
    monkeypatch.setattr('lessondl.explore.most_numbers', 800)
    p = json.loads(Parts(explore(net, x).html).scripts[0])
    assert {s['name']: s['left'] for s in p['tensors'] if s.get('left')} == {'2.weight': 1200, '2': 1200}
    if not node: return
    got = run('''go: (p, { Net, tell }) => { const net = new Net(p), [first, , left, tanh, out] = net.steps
        const before = out.values.slice(), told = tell(net, left, 3)
        net.inputs[0].values.fill(0); net.run(new Set([net.inputs[0]]))
        return { before, told, first: first.values, after: out.values } }''', p)
    assert close(got['before'], net(x)) and close(got['after'], net(x)) and close(got['first'], net[0].bias)
    assert 'The 1,200 weights of this step are too many for a page' in got['told']['words']
    assert got['told']['window']['input'] == list(range(30))


@pytest.mark.parametrize('wrong, text', [
    (lambda net, x: explore(net, x, classes=['one']), 'classes must be 8 texts'),
    (lambda net, x: explore(net, x, names={'nowhere': 'x'}), "no step 'nowhere'"),
    (lambda net, x: explore(nn.Linear(5500, 5500), torch.ones(1, 5500)), 'too large for a page'),
    (lambda net, x: explore(nn.BatchNorm2d(1), torch.ones(1, 1, 2, 2)), 'eval()'),
    (lambda net, x: explore(net, torch.ones(1, 5)), 'does not run')])
def test_errors_say_what_to_do(wrong, text):
    with pytest.raises(ValueError, match=re.escape(text)): wrong(*small())


# ---- the controls that ask Python

def test_schedules_are_those_of_lesson_07():
    for epochs, length, mult, n in ((3, 1, 2, 10), (2, 2, 1, 63), (1, 1, 1, 2)):
        ours = schedule_rates('restarts', .3, epochs, length, mult, n)
        assert np.allclose(ours, .3*schedules.sgdr(epochs, length, mult, n))
    for n in (5, 63, 400):
        assert np.allclose(schedule_rates('one cycle', .3, 1, batches=n), .3*schedules.one_cycle(n)[0])
    assert np.allclose(schedule_rates('constant', .3, 2, batches=5), .3*schedules.constant(2, 5))


@pytest.mark.parametrize('kind, epochs, mult, text', [
    ('restarts', 10, 3, 'that would be 29,524 epochs, more than 2,000: take fewer cycles'),
    ('restarts', 2001, 1, 'take fewer cycles'), ('constant', 2001, 1, 'take fewer epochs'),
    ('one cycle', 10**9, 1, 'that would be 1,000,000,000 epochs')])
def test_a_schedule_too_long_to_draw_is_refused(kind, epochs, mult, text):
    def batches(epochs, mult): return len(schedule_rates(kind, epochs=epochs, cycle_mult=mult, batches=1))
    with pytest.raises(ValueError, match=text): batches(epochs, mult)
    assert batches(10, 2) == (1023 if kind == 'restarts' else 10)


def test_the_slider_that_asks_for_too_long_a_schedule_says_so():
    pytest.importorskip('ipywidgets')
    live = schedule_explorer()
    before = live.image.value
    live.controls['cycle_mult'].value, live.controls['epochs'].value = 3, 10
    assert '29,524 epochs' in live.message.value
    live.controls['epochs'].value = 5                 # 121 epochs: drawn again, and the message is gone
    assert live.message.value == '' and live.image.value != before


@pytest.mark.parametrize('outputs, bound', [((1., -2.), 10), ((20., -1.), 20), ((3., -30.5), 30.5)])
def test_a_slider_reaches_the_output_it_is_given(outputs, bound):
    pytest.importorskip('ipywidgets')
    live = softmax_explorer(outputs)
    sliders = [live.controls[f'output {i}'] for i in range(2)]
    assert [s.value for s in sliders] == list(outputs)
    assert {(s.min, s.max) for s in sliders} == {(-bound, bound)}


def png_size(data: bytes): return struct.unpack('>II', data[16:24])


def test_explorers_draw_what_their_twins_draw():
    pytest.importorskip('ipywidgets')
    from lessondl.data import ImageData
    from lessondl.datasets import cifar10_standin
    data = ImageData.from_arrays(*cifar10_standin(40, 20), aug='flip+crop')
    for live in (kernel_explorer(), kernel_explorer(torch.rand(3, 20, 30)), softmax_explorer(),
                 schedule_explorer(), augmentation_explorer(data)):
        bundle = live._repr_mimebundle_()
        assert min(png_size(live.image.value)) > 50
        assert bundle['image/png'] and '0x' not in bundle['text/plain']
        assert 'application/vnd.jupyter.widget-view+json' in bundle and live.message.value == ''
    for kind in schedule_kinds:
        live = schedule_explorer(); live.controls['kind'].value = kind
        assert live.message.value == ''
    live = augmentation_explorer(data)
    before = live.image.value; live.controls['seed'].value = 3
    assert live.image.value != before
    with pytest.raises(ValueError, match='image must be'): kernel_explorer(np.zeros(3))


def test_a_picture_is_taken_and_what_is_none_is_told():
    pytest.importorskip('ipywidgets')
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(png := io.BytesIO(), 'PNG')
    live = kernel_explorer()
    now = datetime.datetime.now()
    def send(name, content):
        file = dict(name=name, type='', size=len(content), content=memoryview(content), last_modified=now)
        live.controls['upload'].value = [file]
    send('mine.png', png.getvalue())
    assert live.controls['picture'].value == 'mine.png' and live.message.value == ''
    send('<b>text.jpg', b'no picture')
    assert 'no picture that Pillow can read' in live.message.value and '<b>' not in live.message.value


# ---- what is saved in the lessons

def saved(lesson):
    nb = json.loads((root/'nbs'/f'{lesson}.ipynb').read_text(encoding='utf-8'))
    assert 'widgets' not in nb['metadata']
    return [o['data'] for c in nb['cells'] for o in c.get('outputs', ()) if 'data' in o]


def test_the_lesson_holds_the_script_and_the_style_of_today():
    html = [''.join(data.get('text/html', '')) for data in saved('05_explore')]
    pages = [h for h in html if 'lessondl-explore' in h]
    style = (root/'lessondl'/'explore.css').read_text(encoding='utf-8')
    assert len(pages) == 4 and all(_script() in p and style in p and 'data:image/png' in p for p in pages)


@pytest.mark.parametrize('lesson, explorer', [
    ('01_convolution', 'kernel_explorer'), ('02_softmax', 'softmax_explorer'),
    ('05_explore', 'kernel_explorer'), ('07_schedules', 'schedule_explorer')])
def test_a_widget_is_saved_as_its_figure_and_nothing_more(lesson, explorer):
    found = [data for data in saved(lesson) if data.get('text/plain', [''])[0].startswith(explorer)]
    assert len(found) == 1 and set(found[0]) == {'image/png', 'text/plain'}
    assert png_size(base64.b64decode(''.join(found[0]['image/png'])))[0] > 300
    assert sum(len(str(data)) for data in saved(lesson)) < 1e6
