"Nets under the mouse in a real browser, in JupyterLab and from disk: numbers, edits, keyboard, labels"
import copy
import random

import nbformat
import openpyxl
import pytest
import torch
from test_lab import Lab, browser, browser_args, open_notebook
from torch import nn

from lessondl.explore import explore, explore_html
from lessondl.spreadsheet import read_cells, to_spreadsheet
from lessondl.trace import operations, trace

pytestmark = pytest.mark.e2e

# five nets with every kind of layer, made alike here and in the notebook's kernel
nets = '''
import torch
from torch import nn
from lessondl.cnn import Resnet2

class Loop(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed, self.loop, self.out = nn.Embedding(9, 4), kind(4, 5), nn.Linear(5, 9)

    def forward(self, x): return self.out(self.loop(self.embed(x))[0][-1]).softmax(-1)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm, self.mix = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        h = self.norm(self.words(x))
        h = (h @ h.transpose(-1, -2)/2).softmax(-1) @ h
        h = nn.functional.gelu(self.mix(h)) * h.amax(-1, keepdim=True)
        h = torch.where(h > 0, h, h/3)
        return h.mean(1) - h.sum(1).abs().sqrt()

torch.manual_seed(0)
digits = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3),
                       nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10),
                       nn.LogSoftmax(-1)).eval()
models = dict(digits=(digits, torch.randn(3, 1, 28, 28)),
              resnet=(Resnet2([4, 8], 10).eval(), torch.randn(1, 3, 32, 32)),
              gru=(Loop(nn.GRU), torch.randint(9, (4, 1))), lstm=(Loop(nn.LSTM), torch.randint(9, (3, 1))),
              block=(Block().eval(), torch.randint(9, (1, 5))))
'''
classes = ['</script><script>window.hacked = 1</script>', '"quotes" \'too\'', '汉字', 'שלום',
           '<img src=x onerror=hacked=1>', '5', '6', '7', '8', '9']


@pytest.fixture(scope='module')
def models():
    made = {}
    exec(nets, made)
    return made['models']


@pytest.fixture(scope='module')
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), headless=True, args=browser_args)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(chromium, request):
    "Open a file in a fresh page without a network; there must be no error and no request."
    faults, contexts = [], []

    def go(path, **how):
        context = chromium.new_context(offline=True, **{'viewport': {'width': 1200, 'height': 900}, **how})
        contexts.append(context)
        page = context.new_page()
        page.on('pageerror', lambda e: faults.append(str(e)))
        page.on('console', lambda m: m.type in ('error', 'warning') and faults.append(m.text))
        page.on('request', lambda r: r.url.startswith(('file:', 'data:')) or faults.append(r.url))
        page.goto(path.as_uri())
        page.locator('.lessondl-explore .panel[data-value]').first.wait_for()
        return page
    yield go
    for context in contexts: context.close()
    assert faults == []


def panel(root):
    "What the panel says, after the frame in which it is written"
    root.evaluate('e => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')
    d = root.locator('.panel').evaluate('e => ({ ...e.dataset })')
    return d['step'], int(d['flat']), float(d['value'])


def hover_everywhere(page, root, t, n, seed=0):
    "Hover `n` random places of the pictures, every step in turn: each number shown is PyTorch's."
    canvases = root.locator('.step canvas:visible')
    total, draw, right, kinds = canvases.count(), random.Random(seed), 0, set()
    order = list(range(total))
    draw.shuffle(order)
    for k in range(3 * n):
        if right == n: break
        canvas = canvases.nth(order[k % total])
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        before = panel(root)
        page.mouse.move(box['x'] + draw.random() * box['width'], box['y'] + draw.random() * box['height'])
        step, flat, value = panel(root)
        if (step, flat, value) == before: continue           # between two pictures
        expected = t[step].value.flatten()[flat].item()
        assert abs(value - expected) < 1e-4, (step, flat)
        right, kinds = right + 1, kinds | {t[step].op}
    assert right == n
    return kinds


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp('lab'))
    names = 'digits', 'resnet', 'gru', 'lstm', 'block'
    shown = [f'explore(*models[{name!r}], title={name!r})' for name in names]
    code = [nets, 'from lessondl.explore import explore, kernel_explorer', *shown, 'kernel_explorer()']
    cells = [nbformat.v4.new_code_cell(c) for c in code]
    kernel = dict(display_name='python3', language='python', name='python3')
    nb = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel))
    nbformat.write(nb, lab.course/'nbs'/'hover.ipynb')
    yield lab
    lab.stop()


@pytest.fixture(scope='module')
def page(lab, chromium):
    context = chromium.new_context(viewport={'width': 1400, 'height': 1200})
    page = context.new_page()
    page.outside, inside = [], (lab.url, f'ws://127.0.0.1:{lab.port}', 'data:', 'blob:')
    page.on('request', lambda r: r.url.startswith(inside) or page.outside.append(r.url))
    yield page
    context.close()


def run_all(lab, page, name, seconds):
    """Run the notebook that the page shows. It is not opened anew for it: a page that goes away while its
    kernel connects may leave a count of connections behind that is one too low"""
    def connected():
        kernels = [s['kernel'] for s in lab.get('/api/sessions') or () if s['path'] == f'nbs/{name}']
        return any(k['connections'] and k['execution_state'] == 'idle' for k in kernels)
    lab.wait_for(connected, 180, 'the kernel to connect')
    page.get_by_role('menubar').get_by_text('Run', exact=True).click()
    page.get_by_text('Run All Cells', exact=True).click()
    page.wait_for_function('''() => {
        const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]
        const asked = cells.filter(c => c.querySelector('.cm-content')?.textContent.trim())
        return asked.some(c => c.querySelector('[data-mime-type*="error"]')) ||
               asked.length && asked.every(c => /[0-9]/.test(c.querySelector('.jp-InputPrompt').textContent))
    }''', timeout=seconds * 1000)
    assert page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]').count() == 0


def test_a_hundred_hovers_in_jupyterlab_give_pytorchs_numbers(lab, page, models, tmp_path):
    open_notebook(lab, page, 'hover.ipynb')
    run_all(lab, page, 'hover.ipynb', 120)
    roots = page.locator('.jp-OutputArea .lessondl-explore')
    assert roots.count() == len(models)
    kinds = set()
    for i, (name, (model, x)) in enumerate(models.items()):
        root = roots.nth(i)
        root.scroll_into_view_if_needed()
        assert root.locator('.title').inner_text() == name
        t = trace(model, x[:1] if x.ndim == 4 else x)
        kinds |= hover_everywhere(page, root, t, 100, seed=i)
    first, at = roots.nth(0).locator('.step canvas').nth(1), []
    first.focus()
    for key in ('Home', 'ArrowRight', 'ArrowDown', 'ArrowDown'):      # which move nothing else in JupyterLab
        page.keyboard.press(key)
        at.append(panel(roots.nth(0))[:2])
    assert at == [('0', 0), ('0', 1), ('0', 15), ('0', 29)]
    page.screenshot(path=tmp_path/'hover.png')
    print('screenshot:', tmp_path/'hover.png', sorted(kinds))
    assert kinds >= {'input', 'convolution', 'relu', 'max_pool2d', 'avg_pool2d', 'batch_norm', 'tanh',
                     'linear', 'log_softmax', 'add', 'adaptive_max_pool2d',
                     'embedding', 'sigmoid', 'mul', 'softmax', 'layer_norm', 'gelu', 'bmm', 'mean',
                     'where', 'gt', 'div', 'amax', 'sum', 'abs', 'sqrt', 'sub'}
    assert page.outside == []


def test_an_edit_in_jupyterlab_and_a_widget(lab, page, models):
    model, x = models['digits']
    root = page.locator('.jp-OutputArea .lessondl-explore').nth(0)
    root.get_by_role('button', name='Change kernels').first.click()
    root.get_by_label('named').select_option('left edge')
    root.get_by_label('row 2, column 0').fill('0.25')
    shown = root.evaluate('e => Array.from(e.app.net.outputs[0].values)')
    edited = copy.deepcopy(model)
    with torch.no_grad():
        edited[0].weight[0, 0] = torch.tensor([[-1, 0, 1], [-1, 0, 1], [.25, 0, 1]])
        assert torch.allclose(torch.tensor(shown), edited(x[:1])[0], atol=1e-4)
        assert not torch.allclose(edited(x[:1]), model(x[:1]), atol=1e-3)
    hover_everywhere(page, root, trace(edited, x[:1]), 20)
    root.get_by_role('button', name='As it was').click()
    figure = page.locator('.jp-OutputArea .jupyter-widgets img').last
    figure.scroll_into_view_if_needed()
    before = figure.get_attribute('src')
    page.locator('.jp-OutputArea .jupyter-widgets select').last.select_option('emboss')     # the kernel
    changed = '([e, src]) => e.src !== src'
    page.wait_for_function(changed, arg=[figure.element_handle(), before], timeout=30_000)


# the text that is hardest to read: how much lighter or darker it is than what lies behind (WCAG's contrast)
contrast = r'''e => {
    const numbers = text => text.match(/[\d.]+/g).map(Number)
    const part = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4
    const light = text => { const [r, g, b] = numbers(text).map(part); return .21 * r + .72 * g + .07 * b }
    const behind = e => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor
            if ((numbers(colour)[3] ?? 1) > .9) return colour
        }
        return 'rgb(255, 255, 255)'
    }
    const texts = '.title, .hint, .name b, .name span, .words, .figures, .code span, .code code, td, th'
    return [...e.querySelectorAll(`${texts}, .guess span, button, input[type=number]`)]
        .filter(n => n.offsetParent && n.textContent + (n.value ?? ''))
        .map(n => {
            const [a, b] = [light(getComputedStyle(n).color), light(behind(n))].sort((x, y) => y - x)
            return [(a + .05) / (b + .05), n.className || n.tagName, n.textContent]
        }).sort((x, y) => x[0] - y[0])[0]
}'''


def test_both_themes_of_jupyterlab_wide_and_narrow(lab, page, models, tmp_path):
    def menu(first, second, third):
        page.get_by_role('menubar').get_by_text(first, exact=True).click()
        page.get_by_text(second, exact=True).hover()
        page.get_by_text(third).first.click()
    def hidden(): return not page.locator('.jp-FileBrowser').is_visible()
    try:
        if not hidden(): menu('View', 'Appearance', 'Show Left Sidebar')
        page.wait_for_timeout(300)
        for theme in ('dark', 'light'):
            page.set_viewport_size({'width': 1400, 'height': 1200})
            menu('Settings', 'Theme', f'JupyterLab {theme.capitalize()}')
            page.wait_for_function(f"document.querySelector('.lessondl-explore').dataset.theme === '{theme}'")
            for width in (1400, 360):
                page.set_viewport_size({'width': width, 'height': 1200})
                page.wait_for_timeout(500)
                for i in range(len(models)):
                    root = page.locator('.jp-OutputArea .lessondl-explore').nth(i)
                    root.scroll_into_view_if_needed()
                    panel(root)
                    ratio, what, text = root.evaluate(contrast)
                    assert ratio > 4, (theme, width, i, what, text)
                    wide = root.evaluate('e => [e.scrollWidth, e.clientWidth, e.parentElement.clientWidth]')
                    assert wide[0] <= wide[1] <= wide[2], (theme, width, i)
                    page.screenshot(path=tmp_path/f'{theme}_{width}_{i}.png')
        print('screenshots:', tmp_path)
    finally:
        page.set_viewport_size({'width': 1400, 'height': 1200})


def test_the_lesson_untrusted_then_run(lab, page):
    "As it is saved, and not trusted: its pictures. After Run All: nets that live."
    open_notebook(lab, page, '05_explore.ipynb')
    picture = page.locator('.jp-OutputArea img[src^="data:image/png"]').first
    picture.wait_for(timeout=60_000)
    shown = page.locator('.jp-RenderedHTML img').evaluate_all('all => all.map(e => e.naturalWidth)')
    assert len(shown) >= 4 and min(shown) > 300 and page.locator('.lessondl-explore .panel').count() == 0
    run_all(lab, page, '05_explore.ipynb', 400)
    assert page.locator('.lessondl-explore .panel[data-value]').count() == 4
    assert page.locator('.jupyter-widgets').count() > 0
    assert page.outside == []


# ---- a page from disk, the network cut

def test_every_number_from_disk(models, visit, tmp_path):
    for name, (model, x) in models.items():
        page = visit(explore_html(model, x, path=tmp_path/f'{name}.html'))
        t = trace(model, x[:1] if x.ndim == 4 else x)
        hover_everywhere(page, page.locator('.lessondl-explore'), t, 30)


def test_an_edited_kernel_gives_what_pytorch_gives(models, visit, tmp_path):
    model, x = models['digits']
    page = visit(explore_html(model, x, path=tmp_path/'page.html'))
    page.get_by_role('button', name='Change kernels').nth(1).click()
    editor = page.locator('.editor:visible')
    editor.get_by_label('kernel').select_option('2')
    editor.get_by_label('channel').select_option('1')
    editor.get_by_label('named').select_option('outline')
    editor.get_by_label('row 0, column 2').fill('0.75')
    editor.get_by_label('bias').fill('-0.5')
    shown = page.evaluate("Array.from(document.querySelector('.lessondl-explore').app.net.outputs[0].values)")
    edited = copy.deepcopy(model)
    with torch.no_grad():
        edited[4].weight[2, 1] = torch.tensor([[-1, -1, .75], [-1, 8, -1], [-1, -1, -1]])
        edited[4].bias[2] = -.5
        assert torch.allclose(torch.tensor(shown), edited(x[:1])[0], atol=1e-4)
        assert not torch.allclose(edited(x[:1]), model(x[:1]), atol=1e-3)
    editor.get_by_label('the number that is chosen').fill('0')      # the slider, for row 0, column 2
    assert float(editor.get_by_label('row 0, column 2').input_value()) == 0
    editor.get_by_role('button', name='As it was').click()
    shown = page.evaluate("Array.from(document.querySelector('.lessondl-explore').app.net.outputs[0].values)")
    assert torch.allclose(torch.tensor(shown), model(x[:1])[0].detach(), atol=1e-4)


class Kernels(nn.Module):
    "Convolutions of every kind, one of them twice, one of a kernel that is no parameter, one that is turned"
    def __init__(self):
        super().__init__()
        self.large, self.groups = nn.Conv2d(1, 4, 11, 2, 5), nn.Conv2d(4, 4, (1, 5), groups=2, bias=False)
        self.twice, self.line = nn.Conv2d(4, 4, 3, padding=1), nn.Conv1d(4, 3, 5)
        self.block, self.turned = nn.Conv3d(1, 2, (2, 3, 3)), nn.Parameter(torch.randn(2, 4, 2, 3))
        self.register_buffer('fixed', torch.randn(4, 4, 3, 3))

    def forward(self, x):
        x = self.groups(self.large(x))
        x = self.twice(self.twice(x).relu()).tanh()
        x = nn.functional.conv2d(x, self.fixed)
        x = nn.functional.conv2d(x, self.turned.flip(3).transpose(2, 3))
        line = nn.functional.pad(x, (0, 0, 0, 0, 1, 1)).flatten(2)
        return self.block(x[:, None]).flatten(2).mean(2), self.line(line)


def test_any_kernel_can_be_changed(visit, tmp_path):
    torch.manual_seed(1)
    model, x = Kernels().eval(), torch.randn(1, 1, 28, 28)
    page = visit(explore_html(model, x, path=tmp_path/'page.html'))
    buttons = page.get_by_role('button', name='Change kernels')
    edited, root = copy.deepcopy(model), page.locator('.lessondl-explore')
    told = 'e => e.app.net.outputs.map(s => [...s.values])'

    def change(i, kernel, channel, name, value, set):
        buttons.nth(i).click()
        editor = page.locator('.editor:visible')
        editor.get_by_label('kernel').select_option(str(kernel))
        if channel is not None: editor.get_by_label('channel').select_option(str(channel))
        editor.get_by_label(name, exact=True).fill(str(value))
        buttons.nth(i).click()
        with torch.no_grad(): set(edited)
        for shown, expected in zip(root.evaluate(told), edited(x)):
            assert torch.allclose(torch.tensor(shown), expected.flatten().detach(), atol=1e-4), name
    assert buttons.count() == 8
    change(0, 3, None, 'row 10, column 9', .5, lambda m: m.large.weight[3, 0, 10].__setitem__(9, .5))
    change(1, 2, 1, 'row 0, column 4', -1, lambda m: m.groups.weight[2, 1, 0].__setitem__(4, -1))
    change(3, 1, 2, 'row 1, column 1', 2, lambda m: m.twice.weight[1, 2, 1].__setitem__(1, 2))      # for both
    change(4, 0, 3, 'row 0, column 2', 1.5, lambda m: m.fixed[0, 3, 0].__setitem__(2, 1.5))
    change(5, 1, 0, 'row 2, column 1', 3, lambda m: m.turned[1, 0, 1].__setitem__(0, 3))
    place = 'plane 1, row 0, column 2'
    change(6, 1, None, place, -2, lambda m: m.block.weight[1, 0, 1, 0].__setitem__(2, -2))
    change(7, 2, 3, 'row 0, column 4', 1, lambda m: m.line.weight[2, 3].__setitem__(4, 1))
    assert not torch.allclose(edited(x)[0], model(x)[0], atol=1e-3)


class Again(nn.Module):
    "The same convolution three times: a row of the table of steps in time"
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        for _ in range(3): x = self.mix(x).tanh()
        return x.mean((2, 3))


def test_kernels_of_steps_in_time(visit, tmp_path):
    torch.manual_seed(2)
    model, x = Again().eval(), torch.randn(1, 2, 9, 9)
    page = visit(explore_html(model, x, path=tmp_path/'page.html'))
    assert page.locator('.sequence canvas').count() == 6
    page.get_by_role('button', name='Change kernels').click()
    page.get_by_label('kernel').select_option('1')
    page.get_by_label('named').select_option('sharpen')
    shown = page.locator('.lessondl-explore').evaluate('e => [...e.app.net.outputs[0].values]')
    with torch.no_grad(): model.mix.weight[1, 0] = torch.tensor([[0., -1, 0], [-1, 5, -1], [0, -1, 0]])
    assert torch.allclose(torch.tensor(shown), model(x)[0], atol=1e-4)


def test_the_cell_of_the_spreadsheet(models, visit, tmp_path):
    model, x = models['digits']
    page = visit(explore_html(model, x[:1], path=tmp_path/'page.html'))
    path = to_spreadsheet(model, x[:1], path=tmp_path/'net.xlsx')
    cells, book = read_cells(path), openpyxl.load_workbook(path)
    t, root = trace(model, x[:1]), page.locator('.lessondl-explore')
    for i, s in enumerate(s for s in t.steps if not s.moves):
        page.locator('.step canvas').nth(i).focus()
        for key in ('Home', 'ArrowRight'): page.keyboard.press(key)
        assert panel(root)[:2] == (s.name, 1)
        at = cells[s.name].ravel()[1]
        sheet, cell = at.rsplit('!', 1)
        expected = at if s.op == 'input' else f"{at} {book[sheet.strip(chr(39))][cell].value}"
        text = page.locator('.code', has_text='spreadsheet').locator('code').inner_text()
        assert text.strip() == expected


def test_weights_too_many_for_a_page_are_told(visit, tmp_path, monkeypatch):
    monkeypatch.setattr('lessondl.explore.most_numbers', 600)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 3))
    x = torch.ones(1, 4)
    page = visit(explore_html(net.eval(), x, path=tmp_path/'page.html'))
    said = page.locator('.message:visible').all_inner_texts()
    assert said == ['The 900 weights of this step are too many for a page: these numbers come from Python, '
                    'and stay as they are.']
    hover_everywhere(page, page.locator('.lessondl-explore'), trace(net, x), 10)
    assert 'no spreadsheet: too many numbers' in page.locator('.panel').inner_text()


def test_other_pictures_and_a_drawn_one(models, visit, tmp_path):
    model, x = models['digits']
    page = visit(explore_html(model, x, path=tmp_path/'page.html', classes=range(10)))
    answer = "Array.from(document.querySelector('.lessondl-explore').app.net.outputs[0].values)"
    page.get_by_label('picture 3').click()
    assert torch.allclose(torch.tensor(page.evaluate(answer)), model(x[2:3])[0].detach(), atol=1e-4)
    best = model(x[2:3])[0].argmax().item()
    assert page.locator('.answer .guess bdi').first.inner_text() == str(best)
    page.get_by_role('button', name='Clear').click()
    box = page.locator('.paper').bounding_box()
    seen = set()
    page.mouse.move(box['x'] + 40, box['y'] + 20)
    page.mouse.down()
    for k in range(1, 12):
        page.mouse.move(box['x'] + 40 + 4*k, box['y'] + 20 + 9*k)
        seen.add(tuple(page.evaluate(answer)))
    page.mouse.up()
    assert len(seen) > 8                                         # it follows the stroke
    drawn = page.evaluate("Array.from(document.querySelector('.lessondl-explore').app.net.inputs[0].values)")
    drawn = torch.tensor(drawn).view(1, 1, 28, 28)
    assert 20 < (drawn > drawn.min()).sum() < 300
    assert torch.allclose(torch.tensor(page.evaluate(answer)), model(drawn)[0].detach(), atol=1e-4)


def test_keyboard_pin_and_walk(models, visit, tmp_path):
    model, x = models['digits']
    page = visit(explore_html(model, x[:1], path=tmp_path/'page.html'))
    root, first = page.locator('.lessondl-explore'), page.locator('.step canvas').nth(1)
    first.focus()
    page.keyboard.press('Home')
    for key in ('ArrowRight', 'ArrowRight', 'ArrowDown', 'PageDown'): page.keyboard.press(key)
    assert panel(root)[:2] == ('0', 14*14 + 14 + 2)
    assert first.get_attribute('aria-valuetext').startswith('channel 1, row 1, column 2: ')
    page.keyboard.press('Enter')
    box = page.locator('.step canvas').nth(0).bounding_box()
    page.mouse.move(box['x'] + 50, box['y'] + 50)
    assert panel(root)[:2] == ('0', 212)                         # pinned: the mouse changes nothing
    page.keyboard.press('Escape')
    page.mouse.move(box['x'] + 60, box['y'] + 60)
    assert panel(root)[0] == 'input'
    page.mouse.click(box['x'] + 60, box['y'] + 60)
    assert page.get_by_role('button', name='Release').count() == 1
    at = panel(root)[1]
    page.get_by_label('play through all positions').click()
    page.wait_for_timeout(700)
    page.get_by_label('play through all positions').click()
    assert panel(root)[1] >= at + 2
    page.get_by_label('position in this layer').fill('5')
    assert panel(root)[:2] == ('input', 5)


def test_touch_on_a_small_screen_in_both_themes(models, visit, tmp_path):
    model, x = models['digits']
    path = explore_html(model, x, path=tmp_path/'page.html', classes=classes)
    for theme in ('light', 'dark'):
        page = visit(path, viewport={'width': 360, 'height': 740}, has_touch=True, color_scheme=theme)
        root = page.locator('.lessondl-explore')
        assert root.get_attribute('data-theme') == theme
        assert page.evaluate('document.documentElement.scrollWidth') <= 360
        canvas = page.locator('.step canvas').nth(1)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.touchscreen.tap(box['x'] + 20, box['y'] + 20)
        step, flat, value = panel(root)
        assert step == '0' and abs(value - trace(model, x[:1])['0'].value.flatten()[flat].item()) < 1e-4


def test_labels_run_nothing_and_two_of_the_same_do_not_disturb(models, visit, tmp_path):
    model, x = models['digits']
    one = explore(model, x[:1], classes=classes, title=classes[0], names={'0': classes[4]}).html
    other = explore(*models['gru'], title='other').html
    html = f'<!DOCTYPE html><meta charset="utf-8">{one}{one}{other}'
    (tmp_path/'page.html').write_text(html, encoding='utf-8')
    page = visit(tmp_path/'page.html')
    page.wait_for_function("document.querySelectorAll('.panel[data-value]').length === 3")
    assert page.evaluate('window.hacked') is None
    roots = page.locator('.lessondl-explore')
    assert roots.nth(0).locator('.title').inner_text() == classes[0]
    assert roots.nth(0).locator('.name b').nth(1).inner_text() == classes[4]
    assert set(roots.nth(0).locator('.guess bdi').all_inner_texts()) <= set(classes)
    before = panel(roots.nth(1)), panel(roots.nth(2))
    roots.nth(0).get_by_role('button', name='Change kernels').first.click()
    roots.nth(0).get_by_label('row 1, column 1').fill('5')
    hover_everywhere(page, roots.nth(2), trace(*models['gru']), 10)
    assert panel(roots.nth(1)) == before[0]
    cells = "[...document.querySelectorAll('.lessondl-explore')].map(e => e.app.net.cells[4])"
    kernels = page.evaluate(cells)
    assert kernels[0] == 5 != kernels[1]


def test_what_cannot_be_drawn_is_said(visit, tmp_path, monkeypatch):
    monkeypatch.setitem(operations, 'conv_transpose', lambda step, index: {})    # Python alone knows it
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 600, 1), nn.ReLU(), nn.ConvTranspose2d(600, 2, 2, 2), nn.Sigmoid())
    with torch.no_grad(): net[0].weight[0] = float('nan'); net[2].weight[0] = 0
    page = visit(explore_html(net, torch.rand(1, 1, 6, 6), path=tmp_path/'page.html'))
    page.locator('.message:visible').first.wait_for()
    said = ' '.join(page.locator('.message:visible').all_inner_texts())
    assert '36 of 21,600 numbers are NaN or infinite' in said
    assert 'the first 512 of 600 channels' in said and 'The page cannot compute “conv_transpose”' in said
    hover = page.locator('.step canvas').nth(0)
    box = hover.bounding_box()
    page.mouse.move(box['x'] + 9, box['y'] + 9)
    assert panel(page.locator('.lessondl-explore'))[0] == 'input'          # the rest works
