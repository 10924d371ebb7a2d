"""The nets of lessons 10 and 10b on the whole of Nietzsche: validation loss and wall time, one row a run;
and speeds.

    python benchmarks/char_rnn.py                    all rungs of the notes' ladder, one seed
    python benchmarks/char_rnn.py CharRnn --seeds 0 1
    python benchmarks/char_rnn.py --speed            Learner against a plain loop, own cells against
                                                     PyTorch's, writing with and without the kept state
    python benchmarks/char_rnn.py --show             print the committed table, run nothing

A run that stands in results/char_rnn.json already is measured again and replaced. Losses are in nats. The
rungs run for the 2018 course's epochs or fewer, on the first 80% of the text, judged on the last 20% (the
course's rungs of windows had a random 20%). Windows of 8 characters keep their capitals, 512 in a batch;
streams are in lower case, 64 of them: both as in the course.
"""
import argparse
import io
import json
import math
import statistics as st
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from machine import machine, write_json
from torch import nn

from lessondl import rnn as R
from lessondl.datasets import nietzsche, tiny_shakespeare
from lessondl.learner import Callback, GradientClip, Learner, find_precision, seed_everything

RESULTS = Path(__file__).parent / 'results' / 'char_rnn.json'
adam = partial(torch.optim.Adam, betas=(0.9, 0.99))
windows = lambda **kw: R.WindowData(nietzsche(), 8, 512, **kw)
ends = partial(windows, step=8, every=True)
streams = lambda bptt=8, bs=64: R.TextData(nietzsche(), bs, bptt, lower=True)
shakespeare = lambda: R.TextData(tiny_shakespeare(), 16, 64, valid=0.1)

def identity(v):
    model = R.CharSeqRnn(v)
    nn.init.eye_(model.rnn.weight_hh_l0)
    return model

broad = lambda v: R.CharSeqStatefulGRU(v, 256, 256)

def broad_small(v):
    "A wide embedding that starts small"
    model = broad(v)
    nn.init.normal_(model.e.weight, std=0.06)
    return model

def tied(v):
    "A GRU whose last layer has the embedding's weights: 256 numbers for each character"
    model = broad_small(v)
    model.l_out.weight = model.e.weight
    return model

wide = lambda v: R.CharSeqStatefulGRU(v, 42, 480)

# rung: data, model, training call; and what the 2018 course printed: epochs, loss
RUNGS = {
    'CharLoopModel':        (windows, R.CharLoopModel, 'fit_one_cycle(2, 5e-3)', (2, 1.751)),
    'CharLoopConcatModel':  (windows, R.CharLoopConcatModel, 'fit_one_cycle(2, 5e-3)', (2, 1.699)),
    'CharRnn':              (windows, R.CharRnn, 'fit_one_cycle(6, 3e-3)', (6, 1.504)),
    'CharSeqRnn':           (ends, R.CharSeqRnn, 'fit_one_cycle(5, 1e-2)', (5, 2.001)),
    'CharSeqRnn, identity': (ends, identity, 'fit_one_cycle(8, 1e-2)', (8, 1.838)),
    'CharSeqStatefulRnn':   (streams, R.CharSeqStatefulRnn, 'fit_one_cycle(8, 3e-3)', (8, 1.486)),
    'CharSeqStatefulRnn2':  (streams, R.CharSeqStatefulRnn2, 'fit_one_cycle(4, 3e-3)', (4, 1.542)),
    'CharSeqStatefulGRU':   (streams, R.CharSeqStatefulGRU, 'fit_one_cycle(9, 5e-3)', (9, 1.3696)),
    'CharSeqStatefulLSTM':  (streams, R.CharSeqStatefulLSTM,
                             'fit(4e-3, 4, cycle_len=1, cycle_mult=2, wd=1e-5)', (17, 1.3152)),
}
# beyond the ladder: the same 512 answers a batch, dealt out as more or fewer steps; shared weights; another
# text
BEYOND = {
    'GRU, 256 streams, bptt 2': (partial(streams, 2, 256), R.CharSeqStatefulGRU, 'fit_one_cycle(4, 5e-3)'),
    'GRU, 64 streams, bptt 8': (partial(streams, 8, 64), R.CharSeqStatefulGRU, 'fit_one_cycle(4, 5e-3)'),
    'GRU, 16 streams, bptt 32': (partial(streams, 32, 16), R.CharSeqStatefulGRU, 'fit_one_cycle(4, 5e-3)'),
    'GRU, 8 streams, bptt 64': (partial(streams, 64, 8), R.CharSeqStatefulGRU, 'fit_one_cycle(4, 5e-3)'),
    'GRU, embedding 256': (streams, broad, 'fit_one_cycle(4, 5e-3)'),
    'GRU, embedding 256, small start': (streams, broad_small, 'fit_one_cycle(4, 5e-3)'),
    'GRU, embedding 256, tied': (streams, tied, 'fit_one_cycle(4, 5e-3)'),
    'LSTM, averaged weights': (partial(streams, 32, 32), R.CharSeqStatefulLSTM,
                               'fit(4e-3, 6, cycle_len=1, cycle_mult=2, wd=3e-5, cbs=R.AverageWeights())'),
    'Shakespeare, 1 epoch': (shakespeare, wide, 'fit_one_cycle(1, 4e-3)'),
}
LONGEST_2018 = dict(rung='CharSeqStatefulLSTM', epochs=80, loss=1.2524)
ALL = {**RUNGS, **BEYOND}

class Writer(Callback):
    "Keeps what the net writes after these epochs, and the time that this takes"
    order = 75
    def __init__(self, vocab: str, epochs=(1, 5, 15, 60)):
        self.vocab, self.epochs, self.texts, self.seconds = vocab, epochs, {}, 0.
    def after_epoch(self, learn):
        if learn.epoch + 1 not in self.epochs: return
        start = time.perf_counter()
        text = R.generate(learn.model, self.vocab, 'those who ', 300, temperature=0.8, seed=0)
        self.texts[learn.epoch + 1] = text
        self.seconds += time.perf_counter() - start

def loss_of_windows(learn, ids, n: int = 64) -> float:
    "Mean loss of all places of windows of `n` characters, each window read from zeros: context 1 to n"
    k = (len(ids) - 1) // n
    x, y = (ids[d:k*n + d].view(k, n).t().contiguous() for d in (0, 1))
    learn.model.eval()
    with torch.no_grad():
        losses = []
        for a, b in zip(x.split(256, dim=1), y.split(256, dim=1)):
            learn.model.reset()
            losses.append(F.nll_loss(learn.model(a), b.flatten(), reduction='none'))
    return torch.cat(losses).mean().item()

def run(rung: str, seed: int) -> dict:
    "Train one net from scratch; `seconds`: wall time of the training call with validation after each epoch"
    make, model, call = ALL[rung][:3]
    data = make()
    seed_everything(seed)
    writer = Writer(data.vocab) if 'LSTM' in rung else None
    cbs = [] if isinstance(data, R.WindowData) else [GradientClip(1.)]
    learn = Learner(data, model(len(data.vocab)), opt_func=adam, cbs=cbs + ([writer] if writer else []))
    start = time.perf_counter()
    eval(f'learn.{call}')
    seconds = time.perf_counter() - start - (writer.seconds if writer else 0)
    rows, batches = learn.recorder.epochs, len(learn.recorder.losses)
    answers = sum(len(y) for _, y in data.train) * len(rows)
    out = dict(rung=rung, call=call, seed=seed, epochs=len(rows), updates=batches,
               valid_loss=rows[-1]['valid_loss'], best=min(r['valid_loss'] for r in rows),
               train_loss=rows[-1]['train_loss'], valid_losses=[round(r['valid_loss'], 4) for r in rows],
               seconds=round(seconds, 1), characters_per_second=round(answers / seconds),
               parameters=sum(p.numel() for p in learn.model.parameters()), precision=learn.precision,
               torch_threads=torch.get_num_threads())
    if writer: out['texts'] = writer.texts
    if 'Shakespeare' in rung:
        out['loss_of_windows_of_64'] = loss_of_windows(learn, data.valid.x.t().flatten())
    return out

def load() -> dict: return json.loads(RESULTS.read_text()) if RESULTS.exists() else {'rows': []}

def save(**changes):
    "The file anew, with these parts changed"
    old = {k: dict(epochs=v[3][0], loss=v[3][1]) for k, v in RUNGS.items()}
    about = (f'Nietzsche, {len(nietzsche()):,} characters, 80% to train, the last 20% to validate; '
             f'losses in nats')
    write_json(RESULTS, {'machine': machine(), 'data': about, 'course_2018': old,
                         'course_2018_longest': LONGEST_2018,
                         **{k: v for k, v in load().items() if k in ('rows', 'speed')}, **changes})

def keep(row: dict):
    "Put a row into the file, in the order above, in place of the same run's older row"
    def run_of(r): return list(ALL).index(r['rung']), r['seed']
    save(rows=sorted([r for r in load()['rows'] if run_of(r) != run_of(row)] + [row], key=run_of))

def table(rows: list[dict]) -> str:
    lines = ['| net | training call | epochs | updates | loss | bits | seconds | 2018: epochs, loss |',
             '|---|---|---|---|---|---|---|---|']
    for r in rows:
        then = '{}, {}'.format(*RUNGS[r['rung']][3]) if r['rung'] in RUNGS else ''
        lines.append(f"| {r['rung']} | `{r['call']}` | {r['epochs']} | {r['updates']:,} "
                     f"| {r['valid_loss']:.4f} | {r['valid_loss'] / math.log(2):.3f} | {r['seconds']:.0f} "
                     f"| {then} |")
    return '\n'.join(lines)

# ---- speeds ------------------------------------------------------------------------------------------------

class OwnLayers(nn.Module):
    "`n_layers` of a cell in a loop of our own, without dropout; weights as PyTorch's layer has them"
    def __init__(self, cell, theirs: nn.Module):
        super().__init__()
        self.cell, self.theirs = cell, theirs

    def forward(self, x, h=None):
        size, n = self.theirs.hidden_size, x.shape[1]
        for l in range(self.theirs.num_layers):
            names = 'weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'
            weights = [getattr(self.theirs, f'{k}_l{l}') for k in names]
            zeros = x.new_zeros(n, size)
            x, last = R.unroll(self.cell, x, (zeros, zeros) if self.cell is R.lstm_cell else zeros, *weights)
        return x, (tuple(s[None] for s in last) if isinstance(last, tuple) else last[None])

def take_turns(sides: dict, pairs: int) -> dict:
    "Seconds of each side, run in turn; the ratio of the first to the second in each pair"
    for f in sides.values(): f()
    names, seconds = list(sides), {k: [] for k in sides}
    for i in range(pairs):
        for k in names if i % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            sides[k]()
            seconds[k].append(time.perf_counter() - start)
    ratios = sorted(a / b for a, b in zip(*seconds.values()))
    return dict(first=names[0], second=names[1], pairs=pairs, ratio=st.median(ratios), lowest=ratios[0],
                highest=ratios[-1], seconds={k: st.median(v) for k, v in seconds.items()})

def learner_and_loop(model, n_batches: int, pairs: int) -> dict:
    "An epoch of `n_batches` by `Learner.fit` and by the plainest loop"
    full = streams()
    batches = [b for b, _ in zip(full.train, range(n_batches))]
    bf16 = find_precision() == 'bf16'
    seed_everything(0)
    learn = Learner(SimpleNamespace(train=batches, valid=None), model(len(full.vocab)),
                    opt_func=torch.optim.Adam)
    def fit():
        with redirect_stdout(io.StringIO()): learn.fit(1e-3, 1)    # the tables help nobody
    other = model(len(full.vocab)).train()
    opt = torch.optim.Adam(other.parameters(), lr=1e-3)
    def loop():
        other.train()
        for x, y in batches:
            with torch.autocast('cpu', dtype=torch.bfloat16, enabled=bf16): pred = other(x)
            F.cross_entropy(pred.float(), y).backward()
            opt.step()
            opt.zero_grad()
    out = take_turns({'Learner': fit, 'loop': loop}, pairs)
    n = sum(len(y) for _, y in batches)
    return out | dict(characters_per_second={k: round(n / s) for k, s in out['seconds'].items()})

def own_and_theirs(name: str, cell, layer, bs: int, bptt: int, pairs: int, times: int) -> dict:
    "Forward and backward of the layers alone, fp32, in training, without dropout"
    torch.manual_seed(0)
    own, x = OwnLayers(cell, layer), torch.randn(bptt, bs, 42)
    def step(module):
        def work():
            for _ in range(times):
                layer.zero_grad()
                module(x)[0].square().mean().backward()
        return work
    out = take_turns({'own': step(own), "PyTorch's": step(layer)}, pairs)
    return dict(name=name, streams=bs, bptt=bptt) | out

def writing(n: int = 500) -> dict:
    """Characters per second of `generate` by the LSTM of two layers, and of reading everything anew each
    time; in one thread, seconds of the processor, so that other programs do not count"""
    torch.set_num_threads(1)
    data = streams()
    torch.manual_seed(0)
    model = R.CharSeqStatefulLSTM(len(data.vocab)).eval()
    def carried(n): R.generate(model, data.vocab, 'those who ', n, seed=0)
    def anew(n):
        ids = R.encode('those who ', data.vocab).tolist()
        with torch.no_grad():
            for _ in range(n):
                model.reset()
                ids.append(R.draw(model(torch.tensor(ids)[:, None])[-1]))
    speeds = {}
    for name, f, times in (('carried', carried, 5), ('anew', anew, 1)):
        f(20)
        took = []
        for _ in range(times):
            start = time.process_time()
            f(n)
            took.append(time.process_time() - start)
        speeds[name] = n / min(took)
    return dict(characters=n, characters_per_second=speeds, ratio=speeds['carried'] / speeds['anew'])

def measure_speed():
    out = {'learner': {'CharSeqStatefulGRU': learner_and_loop(R.CharSeqStatefulGRU, 200, 9),
                       'CharSeqStatefulLSTM': learner_and_loop(R.CharSeqStatefulLSTM, 40, 5)}}
    out['precision'], out['cells'] = find_precision(), []
    for bs, bptt in ((64, 8), (512, 8), (64, 64)):
        gru, lstm = nn.GRU(42, 256), nn.LSTM(42, 512, 2)
        times = max(1, 20_000 // (bs * bptt))
        out['cells'].append(own_and_theirs('GRU 256', R.gru_cell, gru, bs, bptt, 7, times))
        few = max(1, times // 8)
        out['cells'].append(own_and_theirs('LSTM 512, 2 layers', R.lstm_cell, lstm, bs, bptt, 5, few))
    out['writing'] = writing()         # last, since it leaves one thread
    save(speed=out)
    print(json.dumps(out, indent=1))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('rungs', nargs='*', help='of: ' + '; '.join(ALL))
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--speed', action='store_true')
    p.add_argument('--show', action='store_true')
    args = p.parse_args()
    if unknown := set(args.rungs) - set(ALL):
        p.error(f"no rung {', '.join(sorted(unknown))}; the rungs are {'; '.join(ALL)}")
    if not args.show and len(nietzsche()) < 550_000:
        raise SystemExit("char_rnn.py measures on the real text only: set LESSONDL_DATA to the folder that "
                         "holds nietzsche.txt")
    if args.speed: measure_speed()
    elif not args.show:
        for rung in args.rungs or RUNGS:
            for seed in args.seeds:
                row = run(rung, seed)
                keep(row)
                print(json.dumps(row), flush=True)
    print(table(load()['rows']))

if __name__ == '__main__': main()
