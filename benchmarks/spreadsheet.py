"""How long a workbook takes: written by lessondl.spreadsheet, recalculated by LibreOffice, and its memory.

    python benchmarks/spreadsheet.py [--runs 7] [--no-million]

`convolution` is the classroom's net on one 28x28 picture, `million` two layers of 500,000 formulas each. Each
run is a process of its own. Its seconds hold the trace, but not what PyTorch imports at the first trace of a
process: `first_seconds` is that first call, on a net of three layers. `cpu_seconds` are the processor's own,
which other programs do not lengthen. Memory (MiB) is the peak of the whole process, PyTorch included.
LibreOffice's seconds hold its start, loading, calculating and saving. Medians go to results/spreadsheet.json.
Run it on a machine that does nothing else.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import machine, write_json
from torch import nn

from lessondl.spreadsheet import check_workbook, read_cells, recalculate, to_spreadsheet

SEED = 0
models = {
    'convolution': lambda: (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(),
                                          nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 10), nn.Softmax(1)),
                            (1, 1, 28, 28)),
    'million': lambda: (nn.Sequential(nn.Conv2d(1, 10, 3, padding=1), nn.ReLU()), (1, 1, 200, 250)),
}


def write(name: str, path: str):
    "One run, in this process: prints seconds, megabytes at the peak, formulas and bytes"
    torch.manual_seed(SEED)
    start = time.perf_counter()
    tiny = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    to_spreadsheet(tiny, torch.rand(1, 1, 8, 8), path=path)
    first = time.perf_counter() - start
    model, shape = models[name]()
    start, cpu = time.perf_counter(), time.process_time()
    to_spreadsheet(model.eval(), torch.rand(shape), path=path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = sum(v.size for n, v in read_cells(path).items() if n != 'input' and '.' not in n)
    size = Path(path).stat().st_size
    print(json.dumps(dict(seconds=seconds, cpu=cpu, first=first, megabytes=peak, formulas=cells, bytes=size)))


def measure(name: str, runs: int) -> dict:
    "Write and recalculate one model `runs` times"
    written, recalculated = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/f'{name}.xlsx'
        for _ in range(runs):
            out = subprocess.run([sys.executable, __file__, '--write', name, str(path)], check=True,
                                 capture_output=True, text=True).stdout
            written.append(json.loads(out))
            start = time.perf_counter()
            new = recalculate(path, Path(folder)/'new.xlsx')
            recalculated.append(time.perf_counter() - start)
        worst = check_workbook(path, new)
    one = written[0]
    def summary(v):
        return dict(median=round(statistics.median(v), 2), lowest=round(min(v), 2), highest=round(max(v), 2))
    return dict(model=name, runs=runs, formulas=one['formulas'], bytes=one['bytes'],
                write_seconds=summary([w['seconds'] for w in written]),
                write_cpu_seconds=summary([w['cpu'] for w in written]),
                first_seconds=summary([w['first'] for w in written]),
                write_megabytes=round(max(w['megabytes'] for w in written)),
                libreoffice_seconds=summary(recalculated), largest_difference=worst)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--runs', type=int, default=7)
    parser.add_argument('--no-million', action='store_true')
    parser.add_argument('--write', nargs=2, metavar=('NAME', 'PATH'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write: write(*args.write)
    else:
        results = [measure('convolution', args.runs)]
        if not args.no_million: results.append(measure('million', 1))
        for r in results: print(json.dumps(r))
        to = Path(__file__).parent/'results'/'spreadsheet.json'
        write_json(to, dict(seed=SEED, machine=machine(), results=results))
