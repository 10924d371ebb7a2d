"Lesson 16 without Keras, and where Keras writes: neither can be seen from inside the lesson."
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
lesson = root / 'nbs' / '16_other_libraries.ipynb'


def python(code: str, home: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith('KERAS') and k != 'XDG_CACHE_HOME'}
    env |= dict(HOME=str(home), LESSONDL_SAMPLE='1', OMP_NUM_THREADS='1', MPLBACKEND='Agg',
                PYTHONPATH=str(root))
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runs_without_keras(tmp_path):
    out = python(f'''
import sys
from pathlib import Path
from nbdev.test import test_nb
sys.modules['keras'] = None                         # whoever imports it gets an ImportError
right, seconds = test_nb(Path({str(lesson)!r}))
print(right, any(name.startswith('keras.') for name in sys.modules))
''', tmp_path)
    assert out.splitlines()[-1] == 'True False'


@pytest.mark.skipif(os.name == 'nt', reason='a home folder of its own is set by HOME')
@pytest.mark.skipif(find_spec('keras') is None, reason='Keras is an extra')      # an import would write
def test_keras_keeps_its_settings_in_the_cache(tmp_path):
    python(f'''
import json
cells = [''.join(c['source']) for c in json.load(open({str(lesson)!r}, encoding='utf-8'))['cells']]
[start] = [c for c in cells if c.startswith("os.environ['KERAS_BACKEND']")]
exec('import os\\nfrom lessondl.datasets import cache_root\\n' + start)
assert keras.config.backend() == 'torch'
''', tmp_path)
    assert not (tmp_path / '.keras').exists()
    assert (tmp_path / '.cache' / 'lessondl' / 'keras' / 'keras.json').exists()
