"""The workbooks of the lessons, written anew:  python spreadsheets/build.py [NAME ...] [--render]

With --render also their pictures, nbs/images/sheet_NAME.png (needs LibreOffice and pdftoppm).
A rule is written once, as text such as `exp/SUM(exps)`: with the names replaced by cells it is the formula,
with the names replaced by numbers it is the value that is stored beside it."""
import argparse
import hashlib
import math
import re
import subprocess
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageOps, PngImagePlugin
from torch import nn
from xlsxwriter import Workbook
from xlsxwriter.utility import xl_range_abs, xl_rowcol_to_cell

from lessondl.convolution import kernels
from lessondl.datasets import digits
from lessondl.spreadsheet import to_spreadsheet

here = Path(__file__).resolve().parent
images = here.parent/'nbs'/'images'
functions = dict(EXP=math.exp, LN=math.log, SQRT=math.sqrt, COS=math.cos, PI=lambda: math.pi, ABS=abs,
                 COUNT=len, SUM=np.sum, AVERAGE=np.mean, MAX=lambda *v: np.max(np.hstack(v)),
                 SUMPRODUCT=lambda *v: np.sum(math.prod(v)),
                 IF=lambda condition, yes, no: yes if condition else no)
looks = dict(title=dict(bold=True, font_size=14), note=dict(font_color='#595959'), label=dict(bold=True),
             head=dict(bold=True, bg_color='#DDEBF7', text_wrap=True, align='center', valign='vcenter',
                       border=1, border_color='#BFBFBF'),
             rule=dict(italic=True, font_size=9, font_color='#7F7F7F', text_wrap=True, align='center',
                       valign='vcenter'),
             input=dict(bg_color='#FFF2CC', border=1, border_color='#D6B656'),
             plain=dict(border=1, border_color='#D9D9D9'), result=dict(bold=True, top=1),
             strong=dict(bold=True, border=1, border_color='#D9D9D9'))
blue, green, orange = '#5B9BD5', '#70AD47', '#ED7D31'


def named(head: str) -> str: return re.sub(r'\W+', '_', head).strip('_')


class Sheet:
    "A worksheet that knows cell and number of what was written last under a name."
    def __init__(self, book: Workbook, name: str, title: str, notes: list, widths: list):
        self.book, self.name, self.ws, self.cells, self.numbers = book, name, book.add_worksheet(name), {}, {}
        for i, width in enumerate(widths): self.ws.set_column(i, i, width)
        self.title(0, title, notes)
        self.ws.set_landscape(); self.ws.set_paper(9); self.ws.set_margins(.3, .3, .4, .4)
        self.ws.fit_to_pages(1, 0)

    def look(self, name: str, digits: str = 'General'):
        if not hasattr(self.book, 'looks'): self.book.looks = {}
        if (name, digits) not in self.book.looks:
            self.book.looks[name, digits] = self.book.add_format(looks[name] | dict(num_format=digits))
        return self.book.looks[name, digits]

    def title(self, r: int, title: str, notes: list):
        self.text(r, 0, title, 'title'); self.ws.set_row(r, 24)
        for i, note in enumerate(notes, r + 1): self.text(i, 0, note, 'note')

    def text(self, r: int, c: int, text: str, look: str = 'label'):
        "Text stays text, also when it begins with `=`, `+`, `-` or `@`."
        self.ws.write_string(r, c, text, self.look(look))

    def number(self, r: int, c: int, number: float, name: str = '', look: str = 'input',
               digits: str = 'General', fixed: bool = False):
        "A given number; in the look of an input it is one to edit. `fixed`: named with dollar signs."
        self.ws.write_number(r, c, number, self.look(look, digits))
        self.remember(name, xl_rowcol_to_cell(r, c, fixed, fixed), number)

    def rule(self, r: int, c: int, rule: str, name: str = '', look: str = 'plain', digits: str = '0.000'):
        "The formula of a rule, and its value."
        formula = '=' + re.sub(r'\b[a-z]\w*', lambda m: self.cells[m[0]], rule)
        value = float(eval(rule.replace('^', '**'), functions | self.numbers))
        self.ws.write_formula(r, c, formula, self.look(look, digits), value)
        self.remember(name, xl_rowcol_to_cell(r, c), value)

    def remember(self, name: str, cell: str, number):
        if name: self.cells[name], self.numbers[name] = cell, number

    def heads(self, r: int, c: int, heads: dict, height: int = 36):
        "Headings, and under each its rule in words."
        for i, (head, rule) in enumerate(heads.items(), c):
            self.text(r, i, head, 'head')
            self.text(r + 1, i, '= ' + rule.replace('_', ' ') if isinstance(rule, str) else '', 'rule')
        self.ws.set_row(r, 32); self.ws.set_row(r + 1, height)

    def table(self, r: int, c: int, columns: dict, totals: dict | None = None, digits: dict | None = None,
              given: str = 'input', rows: list | None = None) -> list:
        """Columns from [r, c] on: a list of texts, a list of numbers, or a rule. A rule may name this row
        of a column (`log_softmax`) or with an s all of it (`exps`). Takes and returns what each row knows."""
        self.heads(r, c, columns)
        rows = rows or [{} for _ in next(iter(columns.values()))]
        r, n = r + 2, len(rows)
        for i, (head, column) in enumerate(columns.items(), c):
            name = named(head)
            for k, row in enumerate(rows):
                for known, what in row.items(): self.remember(known, *what)
                if isinstance(column, str):
                    self.rule(r + k, i, column, name, digits=(digits or {}).get(head, '0.000'))
                elif isinstance(column[k], str): self.text(r + k, i, column[k])
                else: self.number(r + k, i, column[k], name, given, (digits or {}).get(head, 'General'))
                if name in self.cells: row[name] = self.cells[name], self.numbers[name]
            if name in self.cells:
                numbers = np.array([row[name][1] for row in rows])
                self.remember(name + 's', xl_range_abs(r, i, r + n - 1, i), numbers)
        for k, function in enumerate(dict.fromkeys((totals or {}).values())):
            self.text(r + n + k, c, dict(SUM='sum', AVERAGE='mean')[function])
            for i, head in enumerate(columns, c):
                if totals.get(head) == function:
                    self.rule(r + n + k, i, f'{function}({named(head)}s)', look='result',
                              digits=(digits or {}).get(head, '0.000'))
        return rows

    def chart(self, r: int, c: int, title: str, across: str, up: str, series: list, kind: dict, scale: tuple,
              x: dict | None = None, y: dict | None = None, points: tuple | None = None):
        "Series (name, cells of x, cells of y, colour) in a plain chart with its axes named."
        chart = self.book.add_chart(kind)
        for name, xs, ys, colour in [*series, *([points] if points else [])]:
            paint = dict(line=dict(color=colour, width=1.75), marker=dict(type='none'))
            if kind['type'] == 'column': paint = dict(fill=dict(color=colour))
            if points and name == points[0]:
                marker = dict(type='circle', size=6, fill=dict(color=colour))
                paint = dict(line=dict(none=True), marker=marker)
            chart.add_series(dict(name=name, categories=[self.name, *xs], values=[self.name, *ys]) | paint)
        chart.set_title(dict(name=title, name_font=dict(size=11), overlay=False))
        chart.set_x_axis(dict(name=across, major_gridlines=dict(visible=False)) | (x or {}))
        grid = dict(visible=True, line=dict(color='#E0E0E0'))
        chart.set_y_axis(dict(name=up, major_gridlines=grid) | (y or {}))
        chart.set_legend(dict(position='bottom'))
        self.ws.insert_chart(r, c, chart, dict(x_scale=scale[0], y_scale=scale[1]))


def new_book(name: str, folder: Path) -> Workbook:
    book = Workbook(folder/f'{name}.xlsx')
    book.set_properties(dict(title=name, created=datetime(2026, 1, 1, tzinfo=timezone.utc)))
    return book


def softmax(folder: Path):
    "Five outputs through exp, softmax and cross-entropy, sigmoid beside it; then without overflow."
    book = new_book('softmax', folder)
    s = Sheet(book, 'softmax', 'Softmax and cross-entropy: from five outputs to one loss', [
        'Yellow cells are yours to change. Raise one output by 1: its exp grows 2.72 times, and the '
        'other four probabilities must shrink.',
        'Softmax wants to choose one class: its column always adds up to 1. Sigmoid judges each class alone; '
        'set a second actual to 1 and only sigmoid can be right about both.'],
        [10, 11, 15, 15, 15, 18, 18, 27])
    names, n, top, low = 'cat dog plane fish building'.split(), 5, 6, 20
    first = s.table(top - 2, 0, {
        'class': names, 'output': [1.60, 1.10, -0.54, -3.71, 0.50], 'exp': 'EXP(output)',
        'softmax': 'exp/SUM(exps)', 'actual': [0, 1, 0, 0, 0], 'cross-entropy': '-actual*LN(softmax)',
        'sigmoid': '1/(1+EXP(-output))',
        'binary cross-entropy': '-(actual*LN(sigmoid)+(1-actual)*LN(1-sigmoid))'},
        {'exp': 'SUM', 'softmax': 'SUM', 'actual': 'SUM', 'cross-entropy': 'SUM',
         'binary cross-entropy': 'AVERAGE'},
        {'output': '0.00', 'actual': '0'})
    s.ws.data_validation(top, 4, top + n - 1, 4, dict(validate='list', source=[0, 1]))

    s.title(low - 5, 'The same, with the largest output subtracted first', [
        'Each exp becomes smaller by one and the same factor, and so does their sum: softmax does not '
        'change. But write 1000 as an output:',
        'above, its exp is too large for a computer and errors spread; here every number stays right.'])
    s.table(low - 2, 0, {
        'class': names, 'output': 'output_above', 'shifted': 'output-MAX(outputs)', 'exp': 'EXP(shifted)',
        'softmax': 'exp/SUM(exps)', 'log softmax': 'shifted-LN(SUM(exps))',
        'cross-entropy': '-actual*log_softmax',
        'binary cross-entropy': 'MAX(output,0)-output*actual+LN(1+EXP(-ABS(output)))'},
        {'exp': 'SUM', 'softmax': 'SUM', 'cross-entropy': 'SUM', 'binary cross-entropy': 'AVERAGE'},
        {'output': '0.00', 'shifted': '0.00'},
        rows=[dict(output_above=row['output'], actual=row['actual']) for row in first])
    for r, c, colour in ((top, 3, '#9DC3E6'), (top, 6, '#A9D18E'), (low, 4, '#9DC3E6')):
        s.ws.conditional_format(r, c, r + n - 1, c, dict(
            type='data_bar', bar_color=colour, bar_solid=True, min_type='num', max_type='num', min_value=0,
            max_value=1))
    rows = [top, 0, top + n - 1, 0]
    s.chart(top - 2, 9, 'Softmax chooses, sigmoid judges each', '', 'probability',
            [('softmax', rows, [top, 3, top + n - 1, 3], blue),
             ('sigmoid', rows, [top, 6, top + n - 1, 6], green)],
            dict(type='column'), (.85, 1.1), y=dict(min=0, max=1))
    s.ws.freeze_panes(3, 1)
    book.close()


def entropy(folder: Path):
    "Binary cross-entropy: the log loss of cats and dogs, written two ways."
    book = new_book('entropy', folder)
    s = Sheet(book, 'entropy', 'Binary cross-entropy: how wrong is a prediction?', [
        'Yellow cells are yours to change. isCat is 1 for a cat and 0 for a dog; prediction is the '
        'probability of "cat", between 0 and 1 but never 0 or 1 itself.',
        'Move one prediction to the wrong side, then further: it counts as one mistake either way, but its '
        'loss grows and grows. To be sure and wrong is what costs most.'],
        [9, 9, 12, 23, 30, 20, 4, 13, 13, 13])
    cats, top = [1, 1, 0, 0, 1, 0, 1, 0], 6
    s.table(top - 2, 0, {
        'picture': [str(i) for i in range(1, 9)], 'isCat': cats,
        'prediction': [.92, .60, .08, .35, .45, .70, .99, .02],
        'log loss, by IF': 'IF(isCat,-LN(prediction),-LN(1-prediction))',
        'log loss, by formula': '-(isCat*LN(prediction)+(1-isCat)*LN(1-prediction))',
        'right?': 'IF(ABS(prediction-isCat)<0.5,1,0)'},
        {'log loss, by IF': 'AVERAGE', 'log loss, by formula': 'AVERAGE', 'right?': 'AVERAGE'},
        {'isCat': '0', 'prediction': '0.00', 'right?': '0.00'})
    s.ws.data_validation(top, 1, top + len(cats) - 1, 1, dict(validate='list', source=[0, 1]))

    curve = [.01, .02, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, .99]
    s.table(top - 2, 7, {
        'prediction': curve, 'loss of a cat': '-LN(prediction)', 'loss of a dog': '-LN(1-prediction)'},
        digits={'prediction': '0.00'}, given='plain')
    xs, cat, dog = ([top, c, top + len(curve) - 1, c] for c in (7, 8, 9))
    s.chart(top - 2, 11, 'The loss of one picture', 'prediction: probability of "cat"', 'log loss',
            [('a cat', xs, cat, blue), ('a dog', xs, dog, orange)], dict(type='scatter', subtype='smooth'),
            (.85, 1.1), x=dict(min=0, max=1), y=dict(min=0))
    s.ws.freeze_panes(3, 0)
    book.close()


# For each method its settings, what it keeps between steps, and how it moves the line, as in torch.optim;
# `old` is the row above. The rules of b are those of a.
descents = {
    'SGD': (dict(rate=.1), {}, 'old_a-rate*gradient_a',
            'Plain stochastic gradient descent: each row looks at one point and moves a and b against '
            'their gradients.'),
    'momentum': (dict(rate=.01, momentum=.9),
                 {'velocity a': 'momentum*old_velocity_a+gradient_a'}, 'old_a-rate*velocity_a',
                 'Momentum: a step is made of all gradients so far, older ones fading. '
                 'What they agree on adds up.'),
    'RMSProp': (dict(rate=.03, alpha=.99, eps=1e-8),
                {'square a': 'alpha*old_square_a+(1-alpha)*gradient_a^2'},
                'old_a-rate*gradient_a/(SQRT(square_a)+eps)',
                'RMSProp: each gradient is divided by its usual size, so a and b move at one pace. '
                'The average starts at 0, which makes the first steps large.'),
    'Adam': (dict(rate=.1, beta1=.9, beta2=.999, eps=1e-8),
             {'mean a': 'beta1*old_mean_a+(1-beta1)*gradient_a',
              'square a': 'beta2*old_square_a+(1-beta2)*gradient_a^2'},
             'old_a-rate*(mean_a/(1-beta1^step))/(SQRT(square_a/(1-beta2^step))+eps)',
             'Adam: the mean gradient, divided by its usual size. Both averages start at 0 and are too small '
             'at first: dividing by 1 - beta^step mends that.'),
    'cosine': (dict(rate=.1, lowest_rate=0, steps=100),
               {'rate now': 'lowest_rate+(rate-lowest_rate)*(1+COS(PI()*(step-1)/steps))/2'},
               'old_a-rate_now*gradient_a',
               'SGD again, but its rate falls along half a cosine: large steps first, ever smaller ones '
               'later, until the line stops shaking.'),
}


def gradient_descent(folder: Path):
    "One line through 20 points, step by step, by four methods and with a schedule."
    book = new_book('gradient_descent', folder)
    draw, n, epochs, top = np.random.default_rng(0), 20, 5, 9
    x = draw.uniform(0, 3, n).round(2)
    y = (2*x + 3 + draw.normal(0, .3, n)).round(2)
    data = Sheet(book, 'data', 'Gradient descent: a line y = a x + b through 20 points, found in five ways', [
        'Yellow cells are yours to change: the points here, and rate and start on each of the other sheets. '
        'There, one row is one step, and 20 steps are an epoch.',
        'The points lie about y = 2 x + 3. See how near each method comes in 5 epochs, and on its own sheet '
        'what ten times its rate does.'], [9, 9, 11, 4, 12, 9, 9, 9] + [11]*6)
    best = ('(COUNT(xs)*SUMPRODUCT(xs,ys)-SUM(xs)*SUM(ys))/(COUNT(xs)*SUMPRODUCT(xs,xs)-SUM(xs)^2)',
            '(SUM(ys)-a*SUM(xs))/COUNT(xs)')
    mean_loss = 'SUMPRODUCT((a*xs+b-ys)^2)/COUNT(xs)'
    last = 6 + len(descents)                               # the row of the best line
    given = data.table(4, 0, {'x': list(x), 'y': list(y)}, digits={'x': '0.00', 'y': '0.00'})
    data.rule(last, 6, best[0], 'a', 'result'); data.rule(last, 7, best[1], 'b', 'result')
    data.text(last, 4, 'best line'); data.rule(last, 8 + epochs, mean_loss, look='result', digits='0.0000')
    data.cells |= dict(a=f'$G${last + 1}', b=f'$H${last + 1}')
    data.table(4, 2, {'best line': 'a*x+b'}, rows=[dict(row) for row in given])
    data.heads(4, 4, {'method': 0, 'rate': 0, 'a': 0, 'b': 0, 'loss at the start': 'mean of error^2'}
               | {f'after epoch {e}': 'mean of error^2' for e in range(1, epochs + 1)})

    for k, (method, (settings, states, move, note)) in enumerate(descents.items()):
        # one chain down to gradient a: with two formulas of `error`, LibreOffice 7.4 computes errors
        rules = {'prediction': 'old_a*x+old_b', 'error': 'prediction-y', 'loss': 'error^2',
                 'gradient b': '2*error', 'gradient a': 'gradient_b*x'}
        for head, rule in (states | {'a': move}).items():
            rules[head] = rule
            if head.endswith('a'): rules[head[:-1] + 'b'] = rule.replace('_a', '_b')
        kept = [head for head in rules if head[:-1] + 'a' in states] + ['a', 'b']
        s = Sheet(book, method, f'{method}: one row is one step', [note, 'Yellow cells are yours to change.'],
                  [6, 8, 8, 7, 12, 9, 9, 11, 11] + [14]*(len(rules) - 7) + [17]*2)
        for c, (key, number) in enumerate((settings | dict(start_a=1, start_b=1)).items()):
            s.text(4, c, key.replace('_', ' '), 'head'); s.number(5, c, number, key, fixed=True)
        s.heads(top - 2, 0, dict(step=0, epoch=0, x=0, y=0) | rules, 60)
        s.ws.set_row(4, 32)
        columns = {head: c for c, head in enumerate(rules, 4)}
        s.number(top, 0, 0, look='plain')
        for head in kept:
            if head in 'ab': s.rule(top, columns[head], f'start_{head}', head, 'strong', '0.0000')
            else: s.number(top, columns[head], 0, named(head), 'plain', '0.0000')
        line = lambda s=s: [(f'{s.name}!{s.cells[name]}', s.numbers[name]) for name in 'ab']
        after = [line()]
        for step in range(1, n*epochs + 1):
            r, point = top + step, given[(step - 1) % n]
            for name in map(named, kept): s.remember('old_' + name, s.cells[name], s.numbers[name])
            s.number(r, 0, step, 'step', 'plain'); s.number(r, 1, (step - 1)//n + 1, look='plain')
            for c, name in enumerate('xy', 2):
                s.remember('given', f'data!{point[name][0]}', point[name][1])
                s.rule(r, c, 'given', name, digits='0.00')
            for head, rule in rules.items():
                s.rule(r, columns[head], rule, named(head), 'strong' if head in 'ab' else 'plain', '0.0000')
            if step % n == 0: after.append(line())
        steps, a, b = ([top, c, top + n*epochs, c] for c in (0, columns['a'], columns['b']))
        s.chart(3, len(rules) + 5, f'{method}: the way of the line', 'step', '',
                [('a', steps, a, blue), ('b', steps, b, orange)], dict(type='scatter', subtype='straight'),
                (1, 1.3), x=dict(min=0, max=n*epochs))
        if 'rate now' in columns:
            rates = [top + 1, columns['rate now'], top + n*epochs, columns['rate now']]
            s.chart(top + 10, len(rules) + 5, 'The rate along half a cosine', 'step', '',
                    [('rate', [top + 1, 0, top + n*epochs, 0], rates, green)],
                    dict(type='scatter', subtype='straight'), (1, 1), x=dict(min=0, max=n*epochs))
        s.ws.freeze_panes(top, 1); s.ws.repeat_rows(top - 2, top - 1)

        data.text(6 + k, 4, method)
        data.remember('rate', f'{method}!$A$6', settings['rate'])
        data.rule(6 + k, 5, 'rate', digits='0.00')
        for e, (a, b) in enumerate(after):
            data.remember('a', *a); data.remember('b', *b)
            data.rule(6 + k, 8 + e, mean_loss, look='strong' if e == epochs else 'plain', digits='0.0000')
        data.rule(6 + k, 6, 'a'); data.rule(6 + k, 7, 'b')
    colours = dict(zip(descents, (blue, orange, green, '#7030A0', '#C00000')))
    data.chart(last + 2, 4, 'Loss on all points after each epoch', '', 'loss, logarithmic',
               [(m, [4, 8, 4, 8 + epochs], [6 + k, 8, 6 + k, 8 + epochs], colours[m])
                for k, m in enumerate(descents)],
               dict(type='line'), (.95, 1.2), y=dict(log_base=10))
    xs, ys, line = ([6, c, 5 + n, c] for c in range(3))
    data.chart(last + 2, 10, 'The points and the best line', 'x', 'y', [('best line', xs, line, orange)],
               dict(type='scatter', subtype='straight'), (.75, 1.2), points=('points', xs, ys, blue))
    data.ws.freeze_panes(6, 0)
    book.close()


class Seven(nn.Module):
    "A handwritten digit through two convolutions, max pooling and one dense output."
    def __init__(self, conv1: torch.Tensor, conv2: torch.Tensor):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(2, 2, 3, bias=False)
        self.pool, self.dense = nn.MaxPool2d(2), nn.Linear(2*12*12, 1)
        set_weights(self.conv1, weight=conv1); set_weights(self.conv2, weight=conv2)

    def pooled(self, x): return self.pool(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
    def forward(self, x): return self.dense(self.pooled(x).flatten(1))


def set_weights(module: nn.Module, **weights):
    for name, weight in weights.items(): getattr(module, name).data = torch.as_tensor(weight).float()


def convolution(folder: Path):
    "A real handwritten 7 through two kernels, ReLU, two more kernels, ReLU, max pooling and a dense layer."
    x, y = digits()
    x = (torch.tensor(x[:1000, None]).double()/255).round(decimals=2).float()
    y, i = torch.tensor(y[:1000]), 266               # a picture on which the net is right
    top, left, bottom, right = (kernels[f'{side} edge'] for side in ('top', 'left', 'bottom', 'right'))
    model = Seven(torch.stack([top, left])[:, None],
                  torch.stack([torch.stack([top, left]), torch.stack([bottom, right])])).eval()
    with torch.no_grad():      # the dense weights are a template: how sevens differ from the rest
        pooled = model.pooled(x).flatten(1).double()
        seven, other = pooled[y == 7].mean(0), pooled[y != 7].mean(0)
        weight = ((seven - other)/10).round(decimals=2)
        set_weights(model.dense, weight=weight[None], bias=[-(weight @ (seven + other)/2).round(decimals=1)])
    to_spreadsheet(model, x[i, None], path=folder/'convolution.xlsx', decimals=1, names=dict(
        x='a handwritten 7', conv1='first convolution', relu='ReLU', conv2='second convolution',
        relu_2='ReLU again', pool='max pooling', dense='dense layer'),
        title='A handwritten 7, seen by a small net: above 0 means "a seven"')


def maxpool(folder: Path):
    "Max pooling: the largest of each 2x2 window."
    x = torch.tensor([[1., 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])
    to_spreadsheet(nn.MaxPool2d(2), x[None, None], path=folder/'maxpool.xlsx', decimals=0,
                   title='Max pooling', names=dict(max_pool2d='largest of 2x2'))


class Char3(nn.Module):
    "Three characters in, the next one out; the same weights for each of the three."
    def __init__(self, chars: int, embedding: int, hidden: int):
        super().__init__()
        self.embed, self.into = nn.Embedding(chars, embedding), nn.Linear(embedding, hidden)
        self.hidden, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, chars)

    def forward(self, char1, char2, char3):
        h = torch.tanh(self.hidden(torch.relu(self.into(self.embed(char1)))))
        h = torch.tanh(self.hidden(h + torch.relu(self.into(self.embed(char2)))))
        h = torch.tanh(self.hidden(h + torch.relu(self.into(self.embed(char3)))))
        return torch.softmax(self.out(h), -1)


def char_rnn(folder: Path):
    "An RNN unrolled over three characters, trained on 'hello' written round and round."
    chars, text = 'helo', 'hellohel'
    torch.manual_seed(0)
    model = Char3(len(chars), 2, 3).double()
    ids = torch.tensor([chars.index(c) for c in text])
    opt = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(400):
        opt.zero_grad()
        probabilities = model(ids[:5], ids[1:6], ids[2:7])
        F.nll_loss(probabilities.log(), ids[3:8]).backward()
        opt.step()
    for p in model.parameters(): p.data = p.data.round(decimals=2)
    steps = {'add': 'tanh 1 + ReLU 2', 'add_2': 'tanh 2 + ReLU 3', 'out': 'output'}
    for k, end in enumerate(['', '_2', '_3'], 1):
        steps |= {f'embed.embedding{end}': f'char{k}: embedding',
                  f'into.linear{end}': f'char{k}: into hidden', f'relu{end}': f'ReLU {k}',
                  f'hidden.linear{end}': f'hidden {k}', f'tanh{end}': f'tanh {k}'}
    to_spreadsheet(model.float().eval(), *ids[:3, None], path=folder/'char_rnn.xlsx', classes=list(chars),
                   decimals=2, names=steps,
                   title='Three characters through an RNN: what comes next? (h is 0, e is 1, l is 2, o is 3)')


class OneStep(nn.Module):
    "One step of an LSTM: a new hidden and a new cell state."
    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)

    def forward(self, x, h, c): return self.lstm(x, (h, c))[1]


def lstm_cell(folder: Path):
    "One step of nn.LSTM, its four gates open to view."
    draw = np.random.default_rng(0)
    model = OneStep(2, 3).eval()
    for p in model.parameters(): p.data = torch.tensor(draw.normal(0, 1, p.shape).round(1)).float()
    x, h, c = (torch.tensor(draw.uniform(-1, 1, (1, 1, n)).round(1)).float() for n in (2, 3, 3))
    steps = {'lstm.linear': 'x to the gates', 'lstm.linear_2': 'h to the gates', 'lstm.add': 'gates',
             'lstm.sigmoid': 'input gate', 'lstm.sigmoid_2': 'forget gate', 'lstm.tanh': 'candidate',
             'lstm.sigmoid_3': 'output gate', 'lstm.mul': 'forget gate × c',
             'lstm.mul_2': 'input gate × candidate', 'lstm.add_2': 'their sum', 'lstm.tanh_2': 'its tanh',
             'lstm.mul_3': 'output gate × tanh', 'lstm.view': 'new h', 'lstm.view_2': 'new c'}
    to_spreadsheet(model, x, h, c, path=folder/'lstm_cell.xlsx', decimals=2, names=steps,
                   title='One step of an LSTM')


workbooks = dict(softmax=softmax, entropy=entropy, gradient_descent=gradient_descent, convolution=convolution,
                 maxpool=maxpool, char_rnn=char_rnn, lstm_cell=lstm_cell)
# what their pictures show: whole sheets or printed pages, which of them, and the dots per inch
pictures = dict(softmax=(True, [1], 80), entropy=(True, [1], 80),
                gradient_descent=(False, [1, 2, 4, 6, 8, 10], 110), convolution=(True, [2, 1], 50),
                maxpool=(True, [2], 90), char_rnn=(True, [2, 1], 90),
                lstm_cell=(True, [2, 1], 90))


def build(names: list, folder: Path) -> list:
    for name in names: workbooks[name](folder)
    return [folder/f'{name}.xlsx' for name in names]


def render(path: Path, folder: Path = images) -> list:
    "Pictures of a workbook as LibreOffice shows it; each carries the SHA-256 of its workbook."
    whole, pages, dpi = pictures[path.stem]
    kind = 'pdf:calc_pdf_Export:{"SinglePageSheets":{"type":"boolean","value":"%s"}}' % str(whole).lower()
    for old in folder.glob(f'sheet_{path.stem}*.png'): old.unlink()
    made = []
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(['soffice', f'-env:UserInstallation=file://{tmp}/profile', '--headless', '--norestore',
                        '--convert-to', kind, '--outdir', tmp, str(path)],
                       check=True, capture_output=True, timeout=300)
        for k, page in enumerate(pages, 1):
            subprocess.run(['pdftoppm', '-r', str(dpi), '-f', str(page), '-singlefile', '-png',
                            f'{tmp}/{path.stem}.pdf', f'{tmp}/page'], check=True, timeout=300)
            picture = Image.open(f'{tmp}/page.png').convert('RGB')
            left, top, right, bottom = ImageChops.invert(picture).getbbox()
            picture = ImageOps.expand(picture.crop((left, top, right, bottom)), 12, 'white')
            info = PngImagePlugin.PngInfo()
            info.add_text('workbook', hashlib.sha256(path.read_bytes()).hexdigest())
            made.append(folder/(f'sheet_{path.stem}.png' if k == 1 else f'sheet_{path.stem}_{k}.png'))
            picture.quantize(128, dither=Image.Dither.NONE).save(made[-1], optimize=True, pnginfo=info)
    return made


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(workbooks))
    parser.add_argument('--render', action='store_true', help='also nbs/images/sheet_NAME.png')
    args = parser.parse_args()
    if unknown := set(args.names) - set(workbooks):
        parser.error(f'no workbook named {", ".join(sorted(unknown))}; there are {", ".join(workbooks)}')
    for path in build(args.names or list(workbooks), here):
        print(*[p.relative_to(here.parent) for p in (path, *(render(path) if args.render else []))])
