"""Pictures a second from a folder of JPEGs to batches, beside torchvision's ImageFolder and DataLoader.

    python benchmarks/input_pipeline.py [--pairs 9] [--pictures 1024]

1,024 drawn JPEGs of 500x375 pixels in two class folders; each becomes a normalised float32 picture of
224x224: shorter side to 224, then the middle. Ours: `ImageData.from_folder(..., in_memory=False)`, decoded
anew in every epoch by one thread a core. Theirs: ImageFolder with Resize, CenterCrop, ToTensor, Normalize, in
a DataLoader with two workers that stay alive between epochs. Batches of 64, shuffled. After one epoch each to
warm up come pairs of epochs, ours and theirs by turns in changing order; reported is the median of the ratios
within the pairs, and beside it the processor time of all threads and processes, on which other programs of
the machine weigh less. Both give the same pictures but for rounding, which is checked first."""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from lessondl.data import ImageData

stats = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
result = Path(__file__).parent / 'results' / 'input_pipeline.json'


def draw(path: Path, seed: int):
    "A picture with soft and with fine parts, as a photograph has them: about 35 kB"
    rng = np.random.default_rng(seed)
    x = np.full((375, 500, 3), rng.uniform(80, 170, 3), np.float32)
    for cells, weight in ((3, 50), (12, 25), (50, 14), (200, 9)):
        small = Image.fromarray(rng.integers(0, 256, (cells*3//4 + 1, cells, 3), dtype=np.uint8))
        x += weight*(np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.float32)/128 - 1)
    Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def folder(path: Path, n: int):
    for split, k in (('train', n), ('valid', 64)):
        for i in range(k):
            file = path / split / 'ab'[i % 2] / f'{i:04}.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            draw(file, i)


def theirs(path: Path, split: str, shuffle: bool) -> DataLoader:
    steps = [transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor(),
             transforms.Normalize(*stats)]
    files = datasets.ImageFolder(path / split, transforms.Compose(steps))
    return DataLoader(files, 64, shuffle=shuffle, num_workers=2, persistent_workers=True)


def clocks() -> tuple[float, float]:
    "Seconds by the clock on the wall, and of processor time of this process and its children."
    children = psutil.Process().children(recursive=True)
    return time.perf_counter(), time.process_time() + sum(sum(c.cpu_times()[:2]) for c in children)


def epoch(loader) -> tuple[float, float]:
    "Both times of one epoch."
    start = clocks()
    for x, _ in loader: assert x.shape[1:] == (3, 224, 224) and x.dtype == torch.float32
    return tuple(b - a for a, b in zip(start, clocks()))


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('--pairs', type=int, default=9)
    parser.add_argument('--pictures', type=int, default=1024)
    parser.add_argument('--dry', action='store_true', help='print, and leave the committed result as it is')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        path, n = Path(tmp), args.pictures
        folder(path, n)
        size = statistics.mean(f.stat().st_size for f in path.glob('train/*/*.jpg'))
        data = ImageData.from_folder(path, size=224, bs=64, stats=stats, in_memory=False)
        loader = theirs(path, 'train', True)
        both = zip(data.valid, theirs(path, 'valid', False))
        apart = max(float((a - b).abs().mean()) for (a, _), (b, _) in both)
        assert apart < 0.05, f'not the same pictures: {apart:.3f} standard deviations apart'
        epoch(data.train), epoch(loader)
        pairs, costs = [], []
        for i in range(args.pairs):
            order = ('ours', data.train), ('theirs', loader)
            times = {name: epoch(dl) for name, dl in (order if i % 2 else order[::-1])}
            pairs.append({name: n / times[name][0] for name in ('ours', 'theirs')})
            costs.append({name: 1000*times[name][1] / n for name in ('ours', 'theirs')})
            print({k: round(v) for k, v in pairs[-1].items()}, f'{pairs[-1]["ours"]/pairs[-1]["theirs"]:.2f}',
                  {k: round(v, 2) for k, v in costs[-1].items()}, flush=True)
    ratios = [p['ours'] / p['theirs'] for p in pairs]
    import PIL
    import torchvision
    found = dict(what='pictures a second, 500x375 JPEG to 224x224 float32, normalised, batches of 64',
                 pictures=n, kilobytes=round(size / 1000), apart=round(apart, 4),
                 ours=round(statistics.median(p['ours'] for p in pairs)),
                 theirs=round(statistics.median(p['theirs'] for p in pairs)),
                 ratio=round(statistics.median(ratios), 2), ratio_least=round(min(ratios), 2),
                 ratio_most=round(max(ratios), 2),
                 processor_ms={k: round(statistics.median(c[k] for c in costs), 2) for k in costs[0]},
                 processor_ratio=round(statistics.median(c['theirs'] / c['ours'] for c in costs), 2),
                 pairs=[{k: round(v, 1) for k, v in p.items()} for p in pairs],
                 peer=dict(torchvision=torchvision.__version__.split('+')[0], workers=2,
                           persistent_workers=True),
                 pillow=PIL.__version__, **machine.machine())
    print({k: v for k, v in found.items() if k != 'pairs'})
    if not args.dry: machine.write_json(result, found)


if __name__ == '__main__':
    main()
