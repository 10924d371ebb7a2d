"""What counting the days by columns, and batches from memory, are worth.

    python benchmarks/tabular.py [--pairs 7] [--rows 1000000]

`elapsed`: `add_elapsed` against the walk through the rows that the course notes' library does, for three
events in both directions, on the same table, newest day first as in the competition's files; the results are
asserted equal. `batches`: one epoch of shuffled batches from `TableLoader` against a `Dataset` that gives row
by row to a `DataLoader`; the same rows, types and batch size. The two sides take turns and change who begins.
Each is one thread, timed by the processor's seconds. One ratio for each pair; the median and the spread go to
results/tabular.json.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from machine import machine, write_json
from torch.utils.data import DataLoader, Dataset

from lessondl.tabular import TableLoader, add_elapsed

SEED, EVENTS = 0, ('SchoolHoliday', 'Holiday', 'Promo')


def sales_table(rows: int) -> pd.DataFrame:
    "A thousand shops, newest day first, three events of different frequency"
    rng, shops = np.random.default_rng(SEED), 1000
    n = rows // shops
    days = pd.date_range('2013-01-01', periods=n)[::-1]
    df = pd.DataFrame({'Store': np.tile(np.arange(1, shops + 1), n), 'Date': np.repeat(days, shops)})
    for col, share in zip(EVENTS, (0.2, 0.03, 0.4)):
        df[col] = (rng.random(n * shops) < share).astype(int)
    return df


def walk(df: pd.DataFrame, col: str, ascending: bool) -> pd.Series:
    "Days to the last event met, row by row through the sorted table"
    df, day = df.sort_values(['Store', 'Date'], ascending=[True, ascending]), np.timedelta64(1, 'D')
    shop, last, out = None, np.datetime64('NaT'), []
    for s, event, date in zip(df.Store.values, df[col].values, df.Date.values):
        if s != shop: shop, last = s, np.datetime64('NaT')
        if event: last = date
        out.append(abs(date - last) / day)
    return pd.Series(out, index=df.index)


def by_rows(df: pd.DataFrame) -> pd.DataFrame:
    df = df.copy()
    for col in EVENTS:
        df['After' + col] = walk(df, col, True)
        df['Before' + col] = walk(df, col, False)
    return df


def by_columns(df: pd.DataFrame) -> pd.DataFrame: return add_elapsed(df, EVENTS)


class Rows(Dataset):
    "A table as one meets it in tutorials: arrays, and one row at a time"
    def __init__(self, cats, conts, y): self.cats, self.conts, self.y = cats, conts, y
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return (self.cats[i], self.conts[i]), self.y[i]


def epoch(loader) -> int: return sum(len(y) for _, y in loader)


def taking_turns(sides: dict, pairs: int) -> dict:
    "Processor seconds of each side in each pair"
    seconds = {name: [] for name in sides}
    for i in range(pairs):
        for name in list(sides) if i % 2 == 0 else list(sides)[::-1]:
            start = time.process_time()
            sides[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def summary(seconds: dict, slow: str, fast: str, **what) -> dict:
    ratios = sorted(a / b for a, b in zip(seconds[slow], seconds[fast]))
    ratio = {'median': statistics.median(ratios), 'lowest': ratios[0], 'highest': ratios[-1], 'all': ratios}
    return {**what, 'pairs': len(ratios), 'ratio': ratio, 'seconds': seconds}


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('--pairs', type=int, default=7)
    parser.add_argument('--rows', type=int, default=1_000_000)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'tabular.json')
    args = parser.parse_args()
    torch.set_num_threads(1)

    df = sales_table(args.rows)
    ours, theirs = by_columns(df), by_rows(df)
    for col in ours.columns.difference(df.columns):
        np.testing.assert_array_equal(ours[col], theirs[col])
    del ours, theirs
    seconds = taking_turns({'columns': lambda: by_columns(df), 'rows': lambda: by_rows(df)}, args.pairs)
    elapsed = summary(seconds, 'rows', 'columns', rows=len(df), columns=2 * len(EVENTS))

    g, n, bs = torch.Generator().manual_seed(SEED), args.rows // 5, 512
    cats, conts, y = torch.randint(0, 99, (n, 20), generator=g), torch.randn(n, 25), torch.randn(n, 1)
    memory = TableLoader(cats, conts, y, bs, shuffle=True)
    rows = DataLoader(Rows(cats.numpy(), conts.numpy(), y.numpy()), bs, shuffle=True)
    assert epoch(memory) == epoch(rows) == n
    seconds = taking_turns({'memory': lambda: epoch(memory), 'rows': lambda: epoch(rows)}, args.pairs)
    batches = summary(seconds, 'rows', 'memory', rows=n, batch=bs, categories=20, continuous=25)

    for name, r in (('add_elapsed', elapsed), ('batches', batches)):
        q, fast = r['ratio'], statistics.median(min(r['seconds'].values(), key=statistics.median))
        print(f"{name}: {q['median']:.0f} times as fast ({q['lowest']:.0f} to {q['highest']:.0f}, "
              f"{r['pairs']} pairs), {fast:.2f} s for {r['rows']:,} rows")
    write_json(args.out, {'what': 'seconds by rows divided by seconds by columns and by batches, in pairs',
                          'machine': machine() | {'pandas': pd.__version__}, 'seed': SEED, 'elapsed': elapsed,
                          'batches': batches})


if __name__ == '__main__':
    main()
