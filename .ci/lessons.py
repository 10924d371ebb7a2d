"""Run the lessons and save their outputs; tell which of these are out of step; list the lessons in README.md.

    python .ci/lessons.py run [LESSON ...]    run lessons (without a name: all) and save their outputs
    python .ci/lessons.py check               name the lessons whose saved outputs are out of step
    python .ci/lessons.py readme              write the list of lessons into README.md

`run` keeps in the notebook's metadata what the outputs came from: `hash` (of the code, see `code_hash`),
`outputs` (a hash of the outputs themselves), `seconds`, `threads` and `data`. `check` compares; it and
`readme` need the standard library only.
"""
from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
max_bytes = 1_000_000


# ---- what the outputs depend on ----------------------------------------------------------------------------

def text(lines: str | list[str]) -> str:
    "A notebook keeps text as one string or as a list of lines."
    return lines if isinstance(lines, str) else ''.join(lines)


def lessons(root: Path = root) -> list[Path]:
    "The notebooks that a reader opens, in reading order."
    return sorted((root / 'nbs').glob('*.ipynb'))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


def code_cells(nb: dict) -> list[str]:
    return [text(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']


def canonical(node) -> str:
    """A syntax tree as text, the same on each Python from 3.10 on (`ast.dump` is not): no positions, no empty
    fields, and no docstrings of functions and classes, so that a better docstring asks for no new run."""
    if isinstance(node, list):
        return '[' + ','.join(map(canonical, node)) + ']'
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    documented = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    if documented and ast.get_docstring(node, clean=False) is not None:
        fields['body'] = fields['body'][1:]
    inside = ','.join(f'{k}={canonical(v)}' for k, v in fields.items() if v is not None and v != [])
    return f'{type(node).__name__}({inside})'


def parse(source: str) -> ast.Module | None:
    "The syntax tree, or None for what is not plain Python (a cell with `%` or `!`)."
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def imported(tree: ast.AST | None) -> set[str]:
    "Names of the `lessondl` modules that `tree` imports, wherever it does so, relative imports included."
    found = set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(filter(None, ['lessondl' if node.level else '', node.module]))
            names = [base] + [f'{base}.{a.name}' for a in node.names]
        else:
            continue
        found |= {n.split('.')[1] for n in names if n.startswith('lessondl.')}
    return found


def modules_used(sources: list[str], root: Path = root) -> dict[str, ast.Module]:
    "The modules that `sources` use, directly or through one another."
    todo, found = {name for source in sources for name in imported(parse(source))}, {}
    while todo:
        name = todo.pop()
        path = root / 'lessondl' / f'{name}.py'
        if name not in found and path.exists():
            found[name] = ast.parse(path.read_text(encoding='utf-8'))
            todo |= imported(found[name])
    return found


def code_hash(nb: dict, root: Path = root) -> str:
    """SHA-256 of what decides the outputs: the code cells, the modules of `lessondl` that they use, directly
    or through one another, and the benchmark results that they name. Comments, layout and docstrings do not
    count."""
    cells = code_cells(nb)
    parts = [canonical(tree) if (tree := parse(source)) else source.strip() for source in cells]
    for name, tree in sorted(modules_used(cells, root).items()):
        if ast.get_docstring(tree, clean=False) is not None:
            tree.body = tree.body[1:]
        parts.append(name + canonical(tree))
    for name in sorted({n for source in cells for n in re.findall(r'[\w-]+\.json', source)}):
        path = root / 'benchmarks' / 'results' / name
        if path.exists():
            parts.append(name + json.dumps(read(path), sort_keys=True))
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def exported(nb: dict) -> list[str]:
    "The modules that a notebook starts or adds to."
    modules = re.findall(r'^#\| *(?:default_exp|export) +(\w+)', '\n'.join(code_cells(nb)), re.M)
    return list(dict.fromkeys(modules))


def outputs_hash(nb: dict) -> str:
    "SHA-256 of the saved outputs: it tells when they were changed or removed after the run."
    outputs = [c['outputs'] for c in nb['cells'] if c['cell_type'] == 'code']
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


# ---- check -------------------------------------------------------------------------------------------------

of_one_machine = [
    re.compile(r'(?<![\w.~:/<-])/(?:home|root|Users|tmp|work|var|opt|usr|mnt|private)/\w[^\s\'"<>)]*'),
    re.compile(r'\b[A-Z]:\\+Users\\\S*'),
    re.compile(r'\b0x[0-9a-fA-F]{8,}'),
]


def output_texts(output: dict):
    "The readable texts of one output, without the pictures in them."
    yield text(output.get('text', ''))
    for mime, data in output.get('data', {}).items():
        if mime.startswith('text/') or mime == 'image/svg+xml':
            yield re.sub(r'base64,[A-Za-z0-9+/=\s]+', 'base64,', text(data))


def output_faults(nb: dict) -> list[str]:
    "What no saved output may hold: errors, warnings, what differs from machine to machine, widgets."
    faults = ['the notebook keeps the state of widgets'] if 'widgets' in nb['metadata'] else []
    for number, cell in enumerate(nb['cells'], 1):
        for output in cell.get('outputs', ()):
            where = f'cell {number} ({text(cell["source"]).strip().splitlines()[0][:50]!r})'
            if output['output_type'] == 'error':
                faults.append(f'{where} ended in an error: {output.get("ename")}: {output.get("evalue")}')
            if output.get('name') == 'stderr':
                faults.append(f'{where} wrote to stderr: {text(output["text"]).strip()[:200]!r}')
            if any('widget-view' in mime for mime in output.get('data', ())):
                faults.append(f'{where} saved a widget, which shows nothing without a kernel')
            texts = list(output_texts(output))
            shown = {m.group() for what in of_one_machine for t in texts for m in what.finditer(t)}
            faults += [f'{where} shows {s!r}, which is different on every machine' for s in sorted(shown)]
    return faults


def check_lesson(path: Path, root: Path = root) -> list[str]:
    "What is out of step or wrong in the saved outputs of one notebook."
    nb = read(path)
    if not code_cells(nb):
        return []
    faults, saved, size = output_faults(nb), nb['metadata'].get('lessondl', {}), path.stat().st_size
    if not saved:
        faults.append('its outputs were never saved by `make lessons`')
    elif saved.get('hash') != code_hash(nb, root):
        faults.append('its code, or a module that it uses, has changed since its outputs were saved')
    elif saved.get('outputs') != outputs_hash(nb):
        faults.append('its outputs were changed by something other than `make lessons`')
    if saved and saved.get('data') != 'real':
        faults.append('its outputs come from a stand-in, not from the real data (set LESSONDL_DATA)')
    if size > max_bytes:
        faults.append(f'it has {size / 1e6:.1f} MB, over {max_bytes / 1e6:.0f}: fewer or smaller figures')
    return faults


def check(root: Path = root) -> list[str]:
    "One line for each fault in the saved outputs of the lessons."
    return [f'nbs/{path.name}: {fault}. Mend: make lessons LESSON={path.stem}'
            for path in lessons(root) for fault in check_lesson(path, root)]


# ---- run ---------------------------------------------------------------------------------------------------

def tidy(nb: dict):
    "Remove from a notebook that has just run what changes from run to run and shows nothing to a reader."
    nb['metadata'].pop('widgets', None)
    for cell in nb['cells']:
        if cell['cell_type'] != 'code':
            continue
        # a progress bar on stderr (of a download, say) is over when the lesson is
        cell['outputs'] = [o for o in cell['outputs']
                           if not (o.get('name') == 'stderr' and '%|' in text(o['text']))]
        for output in cell['outputs']:
            for mime in [m for m in output.get('data', ()) if 'widget-view' in m]:
                del output['data'][mime]


def threads() -> int:
    "Threads that PyTorch takes by itself."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return int(os.environ.get('OMP_NUM_THREADS', cores))


def stood_in(nb: dict) -> bool:
    "Whether a data set that the lesson loads is a stand-in here: a stand-in prints a line that says so."
    calls = {m for s in code_cells(nb) for m in re.findall(r'\b(cifar10|nietzsche|tiny_shakespeare)\(', s)}
    if not calls:
        return False
    load = 'import sys; from lessondl import datasets\nfor name in sys.argv[1:]: getattr(datasets, name)()'
    command = [sys.executable, '-c', load, *sorted(calls)]
    return 'stand-in' in subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def run(path: Path, root: Path = root) -> bool:
    "Run one lesson from top to bottom and save its outputs in place. A lesson that fails keeps its old file."
    import nbformat
    from nbclient.exceptions import CellExecutionError
    from nbconvert.preprocessors import ExecutePreprocessor
    from nbdev.clean import nbdev_clean

    def refuse(why: str) -> bool:
        print(f'{path.stem}: {why}', file=sys.stderr, flush=True)
        return False

    before = path.read_bytes()
    nb = nbformat.reads(before.decode('utf-8'), as_version=4)
    print(f'{path.stem}: running ...', flush=True)
    start = time.perf_counter()
    try:
        execute = ExecutePreprocessor(timeout=None, record_timing=False, coalesce_streams=True)
        execute.preprocess(nb, {'metadata': {'path': str(path.parent)}})
    except CellExecutionError as error:
        number = next(i for i, c in enumerate(nb.cells, 1) if any('ename' in o for o in c.get('outputs', ())))
        return refuse(f'cell {number} failed, so the notebook keeps its old outputs.\n{error}')
    seconds = time.perf_counter() - start

    tidy(nb)
    if faults := output_faults(nb):
        return refuse('\n  '.join(['its new outputs cannot be saved, so it keeps its old ones:', *faults]))
    if path.read_bytes() != before:
        return refuse('it was edited while it ran, so its outputs were not saved. Run it again.')
    nb.metadata.lessondl = dict(hash=code_hash(nb, root), seconds=round(seconds), threads=threads(),
                                data='stand-in' if stood_in(nb) else 'real')
    new = path.with_name(f'.{path.name}.new')   # in the same folder: only then is the move atomic
    try:
        nbformat.write(nb, new)
        nbdev_clean(str(new))
        nb = nbformat.from_dict(read(new))
        nb.metadata.lessondl['outputs'] = outputs_hash(nb)
        nbformat.write(nb, new)
        nbdev_clean(str(new))
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    print(f'{path.stem}: {seconds:.0f} s, {path.stat().st_size / 1e3:.0f} kB', flush=True)
    return True


# ---- README ------------------------------------------------------------------------------------------------

begin, end = '<!-- lessons: written by `make lessons` -->', '<!-- /lessons -->'


def duration(seconds: float | None) -> str:
    if seconds is None:
        return 'not yet measured'
    return f'{max(1, round(seconds))} s' if seconds < 90 else f'{round(seconds / 60)} min'


def lesson_row(path: Path) -> str:
    "One row of the list: the lesson, its question, the modules that it exports, its measured time."
    nb = read(path)
    prose = '\n'.join(text(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown')
    quote = re.search(r'^> *(.+(?:\n> *.+)*)', prose, re.M)
    question = re.sub(r'\s*\n> *', ' ', quote[1]).strip().replace('|', r'\|') if quote else ''
    exports = ', '.join(f'`{m}`' for m in exported(nb))
    seconds = nb['metadata'].get('lessondl', {}).get('seconds')
    return f'| [{path.stem}](nbs/{path.name}) | {question} | {exports} | {duration(seconds)} |'


def readme_with_lessons(root: Path = root) -> str:
    "README.md as it should be: what stands between the two marks comes from the notebooks."
    readme = (root / 'README.md').read_text(encoding='utf-8')
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f'README.md needs the lines {begin} and {end}, once each: the lessons go between')
    head, tail = readme.split(begin)[0], readme.split(end)[1]
    rows = ['| lesson | its question | exports | runs in |', '|---|---|---|---|']
    rows += [lesson_row(path) for path in lessons(root) if path.stem[0].isdigit()]
    return '\n'.join([head + begin, *rows, end + tail])


def picture(root: Path = root) -> bytes:
    "The picture of README.md: the figure of the cell in lesson 09c that says it is the one."
    cells = read(root / 'nbs' / '09c_resnet.ipynb')['cells']
    cell = next(c for c in cells if text(c['source']).startswith('# the picture of the README'))
    found = [o['data']['image/png'] for o in cell['outputs'] if 'image/png' in o.get('data', ())]
    if len(found) != 1:
        raise ValueError('the picture of README.md is not drawn yet: run make lessons LESSON=09c_resnet')
    return base64.b64decode(text(found[0]))


# ---- command line ------------------------------------------------------------------------------------------

def find_lesson(name: str) -> Path:
    path = root / 'nbs' / f'{Path(name).name.removesuffix(".ipynb")}.ipynb'
    if not path.exists():
        raise SystemExit(f'no lesson {name!r}. There are: {", ".join(p.stem for p in lessons())}')
    return path


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('do', choices=['run', 'check', 'readme'])
    parser.add_argument('lesson', nargs='*', help='as in 09_cifar10')
    args = parser.parse_args()
    if args.do == 'readme':
        (root / 'README.md').write_text(readme_with_lessons(), encoding='utf-8')
        (root / 'nbs' / 'images').mkdir(exist_ok=True)
        (root / 'nbs' / 'images' / 'ladder.png').write_bytes(picture())
    elif args.do == 'check':
        faults = check()
        print('\n'.join(faults) or 'in step')
        sys.exit(bool(faults))
    else:
        if data := os.environ.get('LESSONDL_DATA'):   # lessons run in nbs/: elsewhere for a relative path
            os.environ['LESSONDL_DATA'] = str(Path(data).resolve())
        os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))
        os.environ.pop('IN_TEST', None)
        paths = [find_lesson(name) for name in args.lesson] or lessons()
        os.chdir(root)
        failed = [path.stem for path in paths if not run(path)]
        if failed:
            raise SystemExit(f'not saved, {len(failed)} of {len(paths)}: {", ".join(failed)}')


if __name__ == '__main__':
    main()
