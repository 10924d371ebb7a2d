"""Trains the body that the course ships, `Resnet2` of lesson 09 on CIFAR-10, and writes
lessondl/resnet2_cifar10.safetensors (weights in half precision) and results/body.json.

    python benchmarks/train_body.py                     30 epochs: 24 minutes on one core, as committed
    python benchmarks/train_body.py --check             only measures the file that is there

The accuracy in the results is that of the written file, read again, on the 10,000 test pictures.
"""
import argparse
import time
from functools import partial
from pathlib import Path

import torch
from machine import cifar10_name, machine, write_json
from safetensors.torch import load_file, save_file

from lessondl.cnn import Resnet2
from lessondl.data import ImageData
from lessondl.datasets import cifar10, cifar10_stats
from lessondl.learner import Learner, seed_everything
from lessondl.metrics import accuracy

HERE = Path(__file__).parent
RESULTS, WEIGHTS = HERE / 'results' / 'body.json', HERE.parent / 'lessondl' / 'resnet2_cifar10.safetensors'
LAYERS = [16, 32, 64, 128, 256]

def build(seed: int) -> Learner:
    seed_everything(seed)
    data = ImageData.from_arrays(*cifar10(), aug='flip+crop', bs=256, stats=cifar10_stats, seed=seed,
                                 valid_bs=1000)
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    return Learner(data, Resnet2(LAYERS, 10, 0.2), opt_func=sgd, metrics=[accuracy], path=HERE / 'models')

def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument('--epochs', type=int, default=30)
    ask.add_argument('--seed', type=int, default=0)
    ask.add_argument('--check', action='store_true', help='measure the file, train nothing')
    args = ask.parse_args()
    learn = build(args.seed)
    row = {}
    if not args.check:
        start = time.perf_counter()
        learn.fit_one_cycle(args.epochs, 0.1, wd=5e-4, moms=(0.9, 0.9))
        row = dict(epochs=args.epochs, seed=args.seed, seconds=round(time.perf_counter() - start),
                   accuracy_float32=learn.validate()[1])
        # whole numbers stay; half precision has more digits than these weights need
        state = {k: v.half().contiguous() if v.is_floating_point() else v
                 for k, v in learn.model.state_dict().items()}
        part = WEIGHTS.with_suffix('.part')
        save_file(state, part, metadata={'model': f'lessondl.cnn.Resnet2({LAYERS}, 10)',
                                         'trained_on': 'CIFAR-10, 50,000 pictures'})
        part.replace(WEIGHTS)
    learn.model.load_state_dict(load_file(WEIGHTS))
    loss, acc = learn.validate()
    probs, y = learn.tta(4)
    row |= dict(accuracy=acc, loss=loss, accuracy_tta=accuracy(probs, y), bytes=WEIGHTS.stat().st_size,
                parameters=sum(p.numel() for p in learn.model.parameters()))
    print(row)
    if not args.check:
        write_json(RESULTS, {'machine': machine(), 'data': cifar10_name(cifar10()[2]), **row})

if __name__ == '__main__': main()
