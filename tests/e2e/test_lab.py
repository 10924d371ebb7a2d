"""A newcomer's first minutes, in a real browser: `make lab`, the map, the CIFAR-10 lesson, its first cells"""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
here = Path(__file__).resolve().parents[2]
browsers = ('chromium', 'chromium-browser', 'google-chrome')
# no sandbox: it cannot be had as root or in most containers, and only 127.0.0.1 is visited
browser_args = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
                '--disable-component-update', '--disable-sync']


def browser() -> str:
    for name in browsers:
        if path := shutil.which(name):
            return path
    pytest.fail(f'no browser: install one of {", ".join(browsers)} (Debian: apt-get install chromium)')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Lab:
    "JupyterLab, started by `make lab` in a copy of the course, so that no run changes the course itself."

    def __init__(self, tmp: Path):
        self.course, self.log = tmp / 'course', tmp / 'lab.log'
        leave = shutil.ignore_patterns('.venv', '.git', 'models', '.ipynb_checkpoints', '__pycache__')
        for folder in ('nbs', 'lessondl', 'benchmarks'):
            shutil.copytree(here / folder, self.course / folder, ignore=leave)
        for name in ('Makefile', 'settings.ini', 'pyproject.toml'):
            shutil.copy2(here / name, self.course)
        # every cell in the page at once, so that the test can read the prompts of all of them
        tracker = tmp / 'settings' / '@jupyterlab' / 'notebook-extension' / 'tracker.jupyterlab-settings'
        tracker.parent.mkdir(parents=True)
        tracker.write_text('{"windowingMode": "none"}')
        self.port, self.token = free_port(), secrets.token_hex(16)
        self.url = f'http://127.0.0.1:{self.port}'
        folders = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_DATA_DIR='data', JUPYTER_RUNTIME_DIR='runtime',
                       JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces')
        env = os.environ | {name: str(tmp / folder) for name, folder in folders.items()}
        env |= dict(JUPYTER_TOKEN=self.token, IPYTHONDIR=str(tmp / 'ipython'), PYTHONPATH=str(self.course),
                    LESSONDL_SAMPLE='1', OMP_NUM_THREADS='1')
        # -o: the packages of the environment that runs this test are taken as they are
        command = ['make', '-o', f'{sys.prefix}/.lessondl-dev', 'lab',
                   'BROWSER=no', f'PORT={self.port}', f'VENV={sys.prefix}']
        with self.log.open('w') as log:
            self.process = subprocess.Popen(command, cwd=self.course, env=env, start_new_session=True,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.wait_for(lambda: self.get('/api/status'), 60, 'JupyterLab to answer')

    def get(self, path: str):
        try:
            with urllib.request.urlopen(f'{self.url}{path}?token={self.token}', timeout=2) as answer:
                return json.load(answer)
        except OSError:
            return None

    def wait_for(self, ready, seconds: float, what: str):
        end = time.monotonic() + seconds
        while not (result := ready()):
            assert self.process.poll() is None, f'`make lab` ended:\n{self.log.read_text()}'
            assert time.monotonic() < end, f'waited {seconds} s for {what}:\n{self.log.read_text()[-3000:]}'
            time.sleep(.1)
        return result

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp('lab'))
    yield lab
    lab.stop()


@pytest.fixture(scope='module')
def page(lab, tmp_path_factory):
    "A page of the browser. It notes every request that leaves this machine: there must be none."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp('profile'), executable_path=browser(), headless=True, args=browser_args,
            viewport={'width': 1300, 'height': 1500})
        page = context.pages[0]
        page.outside, inside = [], (lab.url, f'ws://127.0.0.1:{lab.port}', 'data:', 'blob:')
        page.on('request', lambda r: r.url.startswith(inside) or page.outside.append(r.url))
        yield page
        context.close()


def open_notebook(lab, page, name: str):
    page.goto(f'{lab.url}/lab/tree/nbs/{name}?reset&token={lab.token}', wait_until='domcontentloaded')
    page.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=60_000)


def test_make_lab_opens_the_map_of_the_course(lab, page):
    address = f'{lab.url}/lab/tree/nbs/index.ipynb?token='
    lab.wait_for(lambda: address in lab.log.read_text(), 30, 'the address of the map')
    assert lab.get('/api/status') and urllib.request.urlopen(f'{lab.url}/login').status == 200
    with pytest.raises(urllib.error.HTTPError):   # without the token nothing is shown
        urllib.request.urlopen(f'{lab.url}/api/contents')
    open_notebook(lab, page, 'index.ipynb')
    page.locator('.jp-Notebook h1').first.wait_for(timeout=30_000)


def test_the_first_ten_code_cells_of_09_cifar10_run(lab, page, tmp_path):
    path = lab.course / 'nbs' / '09_cifar10.ipynb'
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    tenth = [i for i, cell in enumerate(cells) if cell['cell_type'] == 'code'][9]
    open_notebook(lab, page, path.name)

    def connected():
        kernels = [s['kernel'] for s in lab.get('/api/sessions') or () if s['path'] == f'nbs/{path.name}']
        return any(k['connections'] and k['execution_state'] == 'idle' for k in kernels)
    # the page shows "idle" before the kernel is connected, and drops without a word what is run until then
    lab.wait_for(connected, 60, 'the kernel to connect')
    page.locator('.jp-Notebook .jp-Cell h1').first.click()      # no link is under it
    page.keyboard.press('Escape')
    for _ in range(tenth + 1):
        page.keyboard.press('Shift+Enter')
    prompts = page.locator('.jp-Notebook .jp-CodeCell .jp-InputPrompt')
    try:
        page.wait_for_function('''() => {
            const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].slice(0, 10)
            const prompts = cells.map(c => c.querySelector('.jp-InputPrompt').textContent)
            const failed = cells.some(c => c.querySelector('[data-mime-type*="error"]'))
            return failed || prompts.every(p => /[0-9]/.test(p))
        }''', timeout=300_000)
    finally:
        page.screenshot(path=tmp_path / 'lab.png')
        print('screenshot:', tmp_path / 'lab.png')
    assert [p.strip(' :\u200b') for p in prompts.all_text_contents()[:10]] == [f'[{n}]' for n in range(1, 11)]
    assert page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]').count() == 0

    page.keyboard.press('Control+s')

    def saved():
        try:
            cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        except ValueError:     # still being written
            return None
        code = [c for c in cells if c['cell_type'] == 'code'][:10]
        return code if all(c['execution_count'] for c in code) else None
    code = lab.wait_for(saved, 30, 'the notebook to be saved')
    assert [c['execution_count'] for c in code] == list(range(1, 11))
    outputs = [o for c in code for o in c['outputs']]
    assert not [o for o in outputs if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert page.outside == [], 'JupyterLab asked for something outside this machine'
