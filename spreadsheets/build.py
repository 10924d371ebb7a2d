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
from xlsxwriter import Workbook
from xlsxwriter.utility import xl_range_abs, xl_rowcol_to_cell

here = Path(__file__).resolve().parent
images = here.parent/'nbs'/'images'
functions = dict(EXP=math.exp, LN=math.log, SQRT=math.sqrt, COS=math.cos, PI=lambda: math.pi, ABS=abs, SUM=np.sum,
                 MAX=lambda *v: np.max(np.hstack(v)), AVERAGE=np.mean, SUMPRODUCT=np.sum,
                 IF=lambda condition, yes, no: yes if condition else no)
looks = dict(title=dict(bold=True, font_size=14), note=dict(font_color='#595959'),
             head=dict(bold=True, bg_color='#DDEBF7', text_wrap=True, align='center', valign='vcenter', border=1,
                       border_color='#BFBFBF'),
             rule=dict(italic=True, font_size=9, font_color='#7F7F7F', text_wrap=True, align='center',
                       valign='vcenter'),
             text=dict(), label=dict(bold=True), input=dict(bg_color='#FFF2CC', border=1, border_color='#D6B656'),
             plain=dict(border=1, border_color='#D9D9D9'), result=dict(bold=True, top=1))


class Sheet:
    "A worksheet that remembers, by name, the cell and the number of what was written last."
    def __init__(self, book: Workbook, name: str, title: str, notes: list, widths: list):
        self.book, self.ws, self.cells, self.numbers = book, book.add_worksheet(name), {}, {}
        for i, width in enumerate(widths): self.ws.set_column(i, i, width)
        self.text(0, 0, title, 'title')
        for r, note in enumerate(notes, 1): self.text(r, 0, note, 'note')
        self.ws.set_row(0, 24)
        self.ws.set_landscape(); self.ws.set_paper(9); self.ws.set_margins(.3, .3, .4, .4)
        self.ws.fit_to_pages(1, 0)

    def look(self, name: str, digits: str = ''):
        if not hasattr(self.book, 'made'): self.book.made = {}
        if (name, digits) not in self.book.made:
            self.book.made[name, digits] = self.book.add_format(looks[name] | (dict(num_format=digits) if digits else {}))
        return self.book.made[name, digits]

    def text(self, r: int, c: int, text: str, look: str = 'text'):
        "Text stays text, also when it begins with `=`, `+`, `-` or `@`."
        self.ws.write_string(r, c, text, self.look(look))

    def number(self, r: int, c: int, number: float, name: str = '', look: str = 'input', digits: str = 'General'):
        "A number that is given; in the look of an input it is one to edit."
        self.ws.write_number(r, c, number, self.look(look, digits))
        self.remember(name, xl_rowcol_to_cell(r, c, row_abs=True, col_abs=True), number)

    def rule(self, r: int, c: int, rule: str, name: str = '', look: str = 'plain', digits: str = '0.000'):
        "A formula of what has a name by now, and its value."
        formula = '=' + re.sub(r'\b[a-z]\w*', lambda m: self.cells[m[0]], rule)
        value = float(eval(rule.replace('^', '**'), functions | self.numbers))
        self.ws.write_formula(r, c, formula, self.look(look, digits), value)
        self.remember(name, xl_rowcol_to_cell(r, c), value)

    def remember(self, name: str, cell: str, number: float):
        if name: self.cells[name], self.numbers[name] = cell, number

    def column(self, name: str, r: int, c: int, numbers: list):
        "Give the cells from [r, c] downwards a name."
        self.remember(name, xl_range_abs(r, c, r + len(numbers) - 1, c), np.array(numbers, float))

    def heads(self, r: int, c: int, heads: dict, height: int = 32):
        "Headings of columns, and under each its rule in words."
        for i, (head, rule) in enumerate(heads.items(), c):
            self.text(r, i, head, 'head')
            self.text(r + 1, i, rule and '= ' + rule.replace('_', ' '), 'rule')
        self.ws.set_row(r, 32); self.ws.set_row(r + 1, height)


def new_book(name: str, folder: Path) -> Workbook:
    book = Workbook(folder/f'{name}.xlsx')
    book.set_properties(dict(title=name, created=datetime(2026, 1, 1, tzinfo=timezone.utc)))
    return book


def softmax(folder: Path):
    "Five outputs through exp, softmax and cross-entropy; sigmoid beside it; then without overflow."
    book = new_book('softmax', folder)
    s = Sheet(book, 'softmax', 'Softmax and cross-entropy: from five outputs to one loss', [
        'Yellow cells are yours to change. Raise one output by 1: its exp grows 2.72 times, and the other four '
        'probabilities must shrink.',
        'Softmax wants to choose one class: its column always adds up to 1. Sigmoid judges each class alone; '
        'set a second actual to 1 and only sigmoid can be right about both.'],
        [10, 11, 15, 15, 15, 18, 18, 27])
    names, outputs, actuals = 'cat dog plane fish building'.split(), [1.60, 1.10, -0.54, -3.71, 0.50], [0, 1, 0, 0, 0]
    n, top, low = len(names), 6, 20
    rules = {'class': '', 'output': '', 'exp': 'EXP(output)', 'softmax': 'exp/SUM(exps)', 'actual': '',
             'cross-entropy': '-actual*LN(softmax)', 'sigmoid': '1/(1+EXP(-output))',
             'binary cross-entropy': '-(actual*LN(sigmoid)+(1-actual)*LN(1-sigmoid))'}
    s.heads(top - 2, 0, rules, 36)
    exps, totals = [math.exp(o) for o in outputs], [[], [], [], [], []]
    s.column('exps', top, 2, exps)
    for r, (name, output, actual) in enumerate(zip(names, outputs, actuals), top):
        s.text(r, 0, name, 'label')
        s.number(r, 1, output, 'output', digits='0.00')
        s.rule(r, 2, rules['exp'], 'exp')
        s.rule(r, 3, rules['softmax'], 'softmax')
        s.number(r, 4, actual, 'actual', digits='0')
        s.rule(r, 5, rules['cross-entropy'], 'loss')
        s.rule(r, 6, rules['sigmoid'], 'sigmoid')
        s.rule(r, 7, rules['binary cross-entropy'], 'binary')
        for total, key in zip(totals, 'exp softmax actual loss binary'.split()): total.append(s.numbers[key])
    s.text(top + n, 0, 'sum', 'label'); s.text(top + n + 1, 0, 'mean', 'label')
    for c, total in zip([2, 3, 4, 5, 7], totals):
        s.column('all', top, c, total)
        if c == 7: s.rule(top + n + 1, c, 'AVERAGE(all)', look='result')
        else: s.rule(top + n, c, 'SUM(all)', look='result', digits='0' if c == 4 else '0.000')
    s.ws.data_validation(top, 4, top + n - 1, 4, dict(validate='list', source=[0, 1]))
    s.ws.conditional_format(top, 3, top + n - 1, 3, bar('#9DC3E6')); s.ws.conditional_format(top, 6, top + n - 1, 6, bar('#A9D18E'))

    s.text(low - 5, 0, 'The same, with the largest output subtracted first', 'title'); s.ws.set_row(low - 5, 24)
    s.text(low - 4, 0, 'Each exp becomes smaller by one and the same factor, and so does their sum: softmax does not change. '
           'But write 1000 as an output:', 'note')
    s.text(low - 3, 0, 'above, its exp is too large for a computer and errors spread; here every number stays right.', 'note')
    rules = {'class': '', 'output': '', 'shifted': 'output-MAX(outputs)', 'exp': 'EXP(shifted)', 'softmax': 'exp/SUM(exps)',
             'log softmax': 'shifted-LN(SUM(exps))', 'cross-entropy': '-actual*log_softmax',
             'binary cross-entropy': 'MAX(output,0)-output*actual+LN(1+EXP(-ABS(output)))'}
    s.heads(low - 2, 0, rules, 36)
    s.column('outputs', low, 1, outputs)
    s.column('exps', low, 3, [math.exp(o - max(outputs)) for o in outputs])
    totals = [[], [], [], []]
    for i, name in enumerate(names):
        r = low + i
        s.text(r, 0, name, 'label')
        s.remember('given', xl_rowcol_to_cell(top + i, 1), outputs[i])
        s.remember('actual', xl_rowcol_to_cell(top + i, 4), actuals[i])
        s.rule(r, 1, 'given', 'output', digits='0.00')
        s.rule(r, 2, rules['shifted'], 'shifted', digits='0.00')
        s.rule(r, 3, rules['exp'], 'exp')
        s.rule(r, 4, rules['softmax'], 'softmax')
        s.rule(r, 5, rules['log softmax'], 'log_softmax')
        s.rule(r, 6, rules['cross-entropy'], 'loss')
        s.rule(r, 7, rules['binary cross-entropy'], 'binary')
        for total, key in zip(totals, 'exp softmax loss binary'.split()): total.append(s.numbers[key])
    s.text(low + n, 0, 'sum', 'label'); s.text(low + n + 1, 0, 'mean', 'label')
    for c, total in zip([3, 4, 6, 7], totals):
        s.column('all', low, c, total)
        if c == 7: s.rule(low + n + 1, c, 'AVERAGE(all)', look='result')
        else: s.rule(low + n, c, 'SUM(all)', look='result')
    s.ws.conditional_format(low, 4, low + n - 1, 4, bar('#9DC3E6'))

    chart = book.add_chart(dict(type='column'))
    for c, colour in ((3, '#5B9BD5'), (6, '#70AD47')):
        chart.add_series(dict(name=['softmax', top - 2, c], categories=['softmax', top, 0, top + n - 1, 0],
                              values=['softmax', top, c, top + n - 1, c], fill=dict(color=colour)))
    finish(chart, 'Softmax chooses, sigmoid judges each', '', 'probability', low=0, high=1)
    s.ws.insert_chart(top - 2, 9, chart, dict(x_scale=.85, y_scale=1.1))
    s.ws.freeze_panes(3, 1)
    book.close()


def bar(colour: str) -> dict:
    return dict(type='data_bar', bar_color=colour, bar_solid=True, min_type='num', max_type='num', min_value=0, max_value=1)


def finish(chart, title: str, across: str, up: str, low=None, high=None):
    "A plain chart with its axes named."
    chart.set_title(dict(name=title, name_font=dict(size=11), overlay=False))
    chart.set_x_axis(dict(name=across, major_gridlines=dict(visible=False), label_position='low'))
    chart.set_y_axis(dict(name=up, min=low, max=high, major_gridlines=dict(visible=True, line=dict(color='#E0E0E0'))))
    chart.set_legend(dict(position='bottom'))


def entropy(folder: Path):
    "Binary cross-entropy: the log loss of cats and dogs, written two ways."
    book = new_book('entropy', folder)
    s = Sheet(book, 'entropy', 'Binary cross-entropy: how wrong is a prediction?', [
        'Yellow cells are yours to change. isCat is 1 for a cat and 0 for a dog; prediction is the probability of "cat", '
        'between 0 and 1 but never 0 or 1 itself.',
        'Move one prediction to the wrong side, then further: it counts as one mistake either way, but its loss grows and '
        'grows. To be sure and wrong is what costs most.'],
        [9, 9, 12, 23, 30, 20, 4, 13, 13, 13])
    cats, predictions = [1, 1, 0, 0, 1, 0, 1, 0], [.92, .60, .08, .35, .45, .70, .99, .02]
    n, top = len(cats), 6
    rules = {'picture': '', 'isCat': '', 'prediction': '', 'log loss, by IF': 'IF(isCat,-LN(prediction),-LN(1-prediction))',
             'log loss, by formula': '-(isCat*LN(prediction)+(1-isCat)*LN(1-prediction))',
             'right?': 'IF(ABS(prediction-isCat)<0.5,1,0)'}
    s.heads(top - 2, 0, rules, 36)
    losses = [[], [], []]
    for r, (cat, prediction) in enumerate(zip(cats, predictions), top):
        s.text(r, 0, str(r - top + 1))
        s.number(r, 1, cat, 'isCat', digits='0')
        s.number(r, 2, prediction, 'prediction', digits='0.00')
        s.rule(r, 3, rules['log loss, by IF'], 'by_if')
        s.rule(r, 4, rules['log loss, by formula'], 'by_formula')
        s.rule(r, 5, rules['right?'], 'right', digits='0')
        for loss, name in zip(losses, ['by_if', 'by_formula', 'right']): loss.append(s.numbers[name])
    s.text(top + n, 0, 'mean', 'label')
    for c, loss in enumerate(losses, 3):
        s.column('all', top, c, loss)
        s.rule(top + n, c, 'AVERAGE(all)', look='result')
    s.ws.data_validation(top, 1, top + n - 1, 1, dict(validate='list', source=[0, 1]))

    rules = {'prediction p': '', 'loss of a cat': '-LN(p)', 'loss of a dog': '-LN(1-p)'}
    s.heads(top - 2, 7, rules, 36)
    curve = [.01, .02, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, .99]
    for r, p in enumerate(curve, top):
        s.number(r, 7, p, 'p', look='plain', digits='0.00')
        s.rule(r, 8, rules['loss of a cat']); s.rule(r, 9, rules['loss of a dog'])
    chart = book.add_chart(dict(type='scatter', subtype='smooth'))
    for c, colour in ((8, '#5B9BD5'), (9, '#ED7D31')):
        chart.add_series(dict(name=['entropy', top - 2, c], categories=['entropy', top, 7, top + len(curve) - 1, 7],
                              values=['entropy', top, c, top + len(curve) - 1, c], line=dict(color=colour, width=2)))
    finish(chart, 'The loss of one picture', 'prediction: probability of "cat"', 'log loss', low=0)
    chart.set_x_axis(dict(name='prediction: probability of "cat"', min=0, max=1, major_gridlines=dict(visible=False)))
    s.ws.insert_chart(top - 2, 11, chart, dict(x_scale=.85, y_scale=1.1))
    s.ws.freeze_panes(3, 0)
    book.close()


workbooks = dict(softmax=softmax, entropy=entropy)


def build(names: list, folder: Path) -> list:
    for name in names: workbooks[name](folder)
    return [folder/f'{name}.xlsx' for name in names]


def render(path: Path, folder: Path = images) -> list:
    "Pictures of a workbook's printed pages, as LibreOffice shows them; each knows the SHA-256 of its workbook."
    from PIL import Image, ImageChops, PngImagePlugin
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(['soffice', f'-env:UserInstallation=file://{tmp}/profile', '--headless', '--norestore', '--convert-to',
                        'pdf', '--outdir', tmp, str(path)], check=True, capture_output=True, timeout=120)
        subprocess.run(['pdftoppm', '-r', '110', '-png', f'{tmp}/{path.stem}.pdf', f'{tmp}/page'], check=True, timeout=120)
        info = PngImagePlugin.PngInfo()
        info.add_text('workbook', hashlib.sha256(path.read_bytes()).hexdigest())
        for old in folder.glob(f'sheet_{path.stem}*.png'): old.unlink()
        made = []
        for k, page in enumerate(sorted(Path(tmp).glob('page*.png')), 1):
            im = Image.open(page).convert('RGB')
            l, t, r, b = ImageChops.invert(im).getbbox()
            im = im.crop((max(l - 12, 0), max(t - 12, 0), r + 12, b + 12)).quantize(128, dither=Image.Dither.NONE)
            made.append(folder/(f'sheet_{path.stem}.png' if k == 1 else f'sheet_{path.stem}_{k}.png'))
            im.save(made[-1], optimize=True, pnginfo=info)
    return made


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(workbooks))
    parser.add_argument('--render', action='store_true', help='also nbs/images/sheet_NAME.png')
    args = parser.parse_args()
    if unknown := set(args.names) - set(workbooks):
        parser.error(f'no workbook named {", ".join(sorted(unknown))}; there are {", ".join(workbooks)}')
    for path in build(args.names or list(workbooks), here):
        print(path.relative_to(here.parent), *[p.relative_to(here.parent) for p in (render(path) if args.render else [])])
