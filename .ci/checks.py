"""What must be in step: each check says what is out of step and names the command that mends it.

    python .ci/checks.py [CHECK ...]     clean, export, rooms, hidden, outputs, readme; without a name: all

`export` and `clean` work on a copy, so that a check never changes the working tree. Only these two
need nbdev; the rest is the standard library.
"""
from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lessons import check as check_outputs
from lessons import exported, imported, lessons, parse, picture, read, readme_with_lessons, root, text

not_ours = ('.ipynb_checkpoints', '__pycache__', 'models')


def files(folder: Path, pattern: str) -> list[Path]:
    return [p for p in sorted(folder.rglob(pattern)) if not set(not_ours) & set(p.relative_to(folder).parts)]


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files(folder, pattern)}


def copy_of(root: Path, to: Path):
    "What nbdev reads and writes, copied."
    for folder in ('nbs', 'lessondl'):
        shutil.copytree(root / folder, to / folder, ignore=shutil.ignore_patterns(*not_ours))
    for name in ('settings.ini', 'pyproject.toml'):
        shutil.copy(root / name, to / name)


def nbdev(module: str, command: str, folder: Path) -> str:
    "Run an nbdev command in `folder`, and return its complaint. With IN_TEST set, nbdev_export does nothing."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    call = f'from nbdev.{module} import {command}; {command}()'
    done = subprocess.run([sys.executable, '-c', call], cwd=folder, text=True, capture_output=True, env=env)
    failed = done.returncode or 'Failed to clean' in done.stderr
    return f'{command} failed:\n{done.stderr.strip()}' if failed else ''


def export(root: Path = root) -> list[str]:
    "`nbdev_export` leaves nothing changed, and each module comes from a notebook."
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        copy_of(root, copy)
        for path in files(copy / 'lessondl', '*.py'):
            if path.name != '__init__.py':
                path.unlink()    # so that a module which no notebook exports any more shows
        if failed := nbdev('doclinks', 'nbdev_export', copy):
            return [failed]
        old, new = contents(root / 'lessondl', '*.py'), contents(copy / 'lessondl', '*.py')
    changed = [name for name in new if name in old and old[name] != new[name]]
    return [
        *(f'lessondl/{n} is not what its notebook exports. Mend: make export' for n in changed),
        *(f'lessondl/{n} is missing. Mend: make export' for n in new if n not in old),
        *(f'lessondl/{n} comes from no notebook. Mend: remove it, or export it' for n in old if n not in new),
    ]


def clean(root: Path = root) -> list[str]:
    "Each notebook is sound JSON, each cell has its own id, and `nbdev_clean` leaves nothing changed."
    faults = []
    for path in files(root / 'nbs', '*.ipynb'):
        name = path.relative_to(root).as_posix()
        try:     # nbdev_clean only warns of a broken notebook, and exits with 0
            ids = [cell['id'] for cell in read(path)['cells']]
        except (ValueError, KeyError, TypeError) as error:
            faults.append(f'{name} is broken ({type(error).__name__}: {error}). Mend: see git diff {name}')
        else:
            twice = sorted({i for i in ids if ids.count(i) > 1})
            faults += [f'{name} has two cells with the id {i!r}. Mend: give one another id' for i in twice]
    if faults:
        return faults
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        copy_of(root, copy)
        if failed := nbdev('clean', 'nbdev_clean', copy):
            return [failed]
        old, new = contents(root / 'nbs', '*.ipynb'), contents(copy / 'nbs', '*.ipynb')
    return [f'nbs/{name} keeps traces of one run (prompt numbers, metadata). Mend: make export'
            for name in old if old[name] != new[name]]


def hidden_cell(source: str, flags: list[str]) -> str:
    "How a code cell hides from `nbdev_test`, and the cure; empty if it does not."
    if re.search(r'^\s*#\s*\|\s*eval\s*:\s*false', source, re.M | re.I):
        return '`eval: false` hides it from nbdev_test. Mend: make it quick, or show the text in Markdown'
    for flag in flags:
        if re.search(rf'^\s*#\s*\|\s*{re.escape(flag)}\b', source, re.M):
            return f'`#| {flag}` hides it from nbdev_test. Mend: remove the flag'
    if 'nbdev_export' + '(' in source:
        return 'nbdev_test passes over a cell that calls nbdev_export. Mend: remove the call'
    if re.search(r'''["']IN_TEST["']\s+not\s+in''', source):
        return 'it runs only where there is no test. Mend: give it less work in a test, not none'
    slow = re.search(r'^\s*#\s*\|\s*slow\b[ :,]*(.*)\n?(.*)', source, re.M)
    if slow and not (slow[1].strip() or re.match(r'\s*#(?!\|)\s*\w', slow[2])):
        return '`#| slow` gives no reason. Mend: say why in a comment on the next line'
    return ''


def hidden(root: Path = root) -> list[str]:
    """Nothing hides from `nbdev_test`: neither a notebook nor a cell. `#| slow` is the exception, with its
    reason beside it, for cells that only `make lessons` runs."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(root / 'settings.ini', encoding='utf-8')
    flags = [f for f in settings.get('DEFAULT', 'tst_flags', fallback='').split() if f != 'slow']
    faults = [f'{p.relative_to(root).as_posix()} hides its whole folder from nbdev_test. Mend: remove it'
              for p in files(root / 'nbs', '.notest')]
    for path in files(root / 'nbs', '*.ipynb'):
        name, nb = path.relative_to(root).as_posix(), read(path)
        if any(part[0] in '_.' for part in path.relative_to(root / 'nbs').parts):
            faults.append(f'{name}: nbdev_test passes over names that start with _ or a dot. Mend: rename it')
        language = nb['metadata'].get('kernelspec', {}).get('language', 'python')
        if language != 'python':
            faults.append(f'{name}: nbdev_test passes over {language!r}. Mend: choose a Python kernel')
        for number, cell in enumerate(nb['cells'], 1):
            source = text(cell['source'])
            if cell['cell_type'] == 'code':
                if fault := hidden_cell(source, flags):
                    faults.append(f'{name}, cell {number}: {fault}')
            elif re.search(r'^\s*[-*]?\s*skip_exec\s*:', source, re.M):
                faults.append(f'{name}, cell {number}: skip_exec hides the notebook. Mend: remove it')
    return faults


def rooms(root: Path = root) -> list[str]:
    "A room stands only on rooms with a lower number: so says what the modules import from one another."
    # a module's room is the first that exports to it; later ones add what they teach
    room = {module: path.stem for path in reversed(lessons(root)) for module in exported(read(path))}
    faults = []
    for module in room:
        path = root / 'lessondl' / f'{module}.py'
        tree = parse(path.read_text(encoding='utf-8')) if path.exists() else None
        faults += [f'lessondl/{module}.py, of {room[module]}, imports {other!r} of the later {room[other]}. '
                   f'Mend: move what it needs into a room below' for other in sorted(imported(tree))
                   if room.get(other, '')[:2] > room[module][:2]]
    return faults


def outputs(root: Path = root) -> list[str]:
    "The saved outputs come from the code as it is, on real data, and show nothing of one machine."
    return check_outputs(root)


def readme(root: Path = root) -> list[str]:
    "The list of lessons in README.md is the one that the notebooks give."
    try:
        same = readme_with_lessons(root) == (root / 'README.md').read_text(encoding='utf-8')
    except ValueError as error:
        return [str(error)]
    drawn = root / 'nbs' / 'images' / 'ladder.png'
    same = same and (not drawn.exists() or drawn.read_bytes() == picture(root))
    return [] if same else ['README.md shows the lessons as they were. Mend: python .ci/lessons.py readme']


checks = dict(clean=clean, export=export, rooms=rooms, hidden=hidden, outputs=outputs, readme=readme)


def main() -> int:
    names = sys.argv[1:] or list(checks)
    if unknown := [n for n in names if n not in checks]:
        raise SystemExit(f'no check {", ".join(unknown)}. There are: {", ".join(checks)}')
    failed = False
    for name in names:
        start = time.perf_counter()
        try:
            faults = checks[name](root)
        except (ValueError, KeyError, TypeError) as error:    # from a broken notebook, which `clean` names
            faults = [f'cannot be checked: {type(error).__name__}: {error}. Mend: python .ci/checks.py clean']
        failed |= bool(faults)
        state = 'OUT OF STEP' if faults else 'in step'
        print('\n  '.join([f'{name}: {state} ({time.perf_counter() - start:.1f} s)', *faults]), flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
