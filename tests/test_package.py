"""The package alone: it needs no notebook tool, is quick to import, and its wheel holds what it should."""
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
modules = sorted(p.stem for p in (root / 'lessondl').glob('*.py') if not p.stem.startswith('_'))

# run first in a fresh Python: what only the notebooks need is not found, as if it were not installed
without_notebook_tools = '''
import sys

absent = {'IPython', 'ipykernel', 'ipywidgets', 'notebook', 'nbconvert', 'nbformat', 'nbclient', 'nbdev',
          'fastcore', 'execnb', 'ghapi', 'pandas', 'formulas', 'torchvision', 'pytest', 'hypothesis'}

class Without:
    def __init__(self, finder): self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.split('.')[0]
        gone = top in absent or top.startswith('jupyter')
        return None if gone else self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
'''


def python(code, **env):
    env = os.environ | {'PYTHONPATH': str(root), 'MPLBACKEND': 'agg'} | env
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root / 'tests')
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_works_without_notebook_tools():
    imports = '\n'.join(f'import lessondl.{name}' for name in modules if name != 'tabular')
    python(without_notebook_tools + imports + '''
import torch
from lessondl.data import ImageData
from lessondl.datasets import cifar10_standin
from lessondl.learner import Learner
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
learn = Learner(ImageData.from_arrays(*cifar10_standin(64, 32)), model)
learn.fit(0.01, 1)
learn.summary()
learn.recorder.plot_loss()
''', OMP_NUM_THREADS='1')


def test_tabular_says_what_it_needs():
    code = 'try: import lessondl.tabular\nexcept ImportError as e: print(e)'
    assert 'pip install pandas pyarrow' in python(without_notebook_tools + code)


def test_the_tools_are_really_taken_away():
    look = 'from importlib.util import find_spec\nprint(find_spec("IPython"), bool(find_spec("torch")))'
    assert python(without_notebook_tools + look) == 'None True\n'


def test_import_lessondl_imports_neither_torch_nor_matplotlib():
    heavy = "[m for m in ('torch', 'matplotlib', 'numpy') if m in sys.modules]"
    assert python(f'import sys, lessondl; print(lessondl.__version__, {heavy})').endswith(' []\n')


def test_wheel(tmp_path):
    "Built as `python -m build` does, in a copy, because setuptools writes beside the sources."
    source = tmp_path / 'source'
    for folder in ('lessondl', 'nbs'):
        leave = shutil.ignore_patterns('__pycache__', 'models', '.*')
        shutil.copytree(root / folder, source / folder, ignore=leave)
    for name in ('pyproject.toml', 'README.md', 'LICENSE', 'settings.ini'):
        shutil.copy(root / name, source)
    command = [sys.executable, '-m', 'build', '--no-isolation', '--wheel', '--outdir', tmp_path, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = tmp_path.glob('*.whl')
    wheel = zipfile.ZipFile(path)
    inside = {n for n in wheel.namelist() if '.dist-info/' not in n}
    assert {f'lessondl/{name}.py' for name in modules} < inside
    others = {f'lessondl/{p.name}' for p in (root / 'lessondl').iterdir()
              if p.suffix in ('.npz', '.js', '.css', '.safetensors')}
    assert len(others) == 4 and others < inside
    assert all(n.startswith('lessondl/') and not n.endswith('.ipynb') for n in inside), inside
    assert path.stat().st_size < 6e6       # 3.9 MB of it are the shipped body's weights
    [licence] = [n for n in wheel.namelist() if n.endswith('licenses/LICENSE')]
    assert b'Apache License' in wheel.read(licence)
    [metadata] = [n for n in wheel.namelist() if n.endswith('/METADATA')]
    needs = Parser().parsestr(wheel.read(metadata).decode()).get_all('Requires-Dist')
    always = sorted(need.split('>')[0] for need in needs if 'extra ==' not in need)
    assert ' '.join(always) == 'matplotlib numpy openpyxl pillow safetensors torch tqdm xlsxwriter'
