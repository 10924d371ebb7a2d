"""README.md and CONTRIBUTING.md keep their word: code runs, links lead somewhere, make knows the commands."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
texts = {name: (root / name).read_text(encoding='utf-8') for name in ('README.md', 'CONTRIBUTING.md')}
blocks = re.findall(r'^```python\n(.*?)^```', texts['README.md'], re.M | re.S)


@pytest.mark.parametrize('block', range(len(blocks)))
def test_code_of_the_readme_runs(block, tmp_path):
    env = os.environ | {'LESSONDL_SAMPLE': '1', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}
    command = [sys.executable, '-W', 'error', '-c', blocks[block]]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_code():
    assert len(blocks) == 4


@pytest.mark.parametrize('name', texts)
def test_links_lead_somewhere(name):
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)', texts[name])
    assert [link for link in links if not (root / link).exists()] == []


@pytest.mark.parametrize('name', texts)
def test_make_knows_the_commands(name):
    makefile = (root / 'Makefile').read_text(encoding='utf-8')
    goals = set(re.findall(r'`make (?:-k )?([a-z][a-z0-9-]*)', texts[name])) | set(
        re.findall(r'^make ([a-z][a-z0-9-]*)', texts[name], re.M))
    assert goals and [goal for goal in goals if not re.search(rf'^{goal}:', makefile, re.M)] == []
