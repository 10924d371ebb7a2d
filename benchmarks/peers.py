"""Pictures per second in training: lessondl against fastai 2 and Keras 3, each as its own documentation has a
user write it.

    python benchmarks/peers.py --fastai PYTHON --keras PYTHON [--pairs 7] [--pictures 12800]

PYTHON is the interpreter of an environment in which that peer is installed (`pip install fastai==2.8.*`;
`pip install keras torch`). Each library runs in a process of its own and waits for its turn; the turns
alternate, so that the machine's drift meets all of them. One turn trains `pictures` pictures of CIFAR-10
once, by flip and padded crop, in batches of 256, with SGD; the first turn of each is not counted.
lessondl: arrays in memory, its Learner's defaults. fastai: `ImageDataLoaders.from_folder` and `Learner.fit`
on the same PyTorch model. Keras, on PyTorch: arrays, augmentation layers, the same net in Keras layers, mixed
bfloat16, `model.fit`. The ratio of each turn, its median and its spread go to results/peers.json. Run it on a
machine that does nothing else.
"""
import argparse
import json
import os
import statistics as st
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BATCH, SIZES = 256, [16, 32, 64, 128, 256]

def torch_model(name):
    from lessondl.cnn import Resnet2, SimpleNet
    return Resnet2(SIZES, 10, 0.2) if name == 'Resnet2' else SimpleNet([3072, 40, 10])

def lessondl_turn(folder, name):
    import numpy as np

    from lessondl.data import ImageData
    from lessondl.learner import Learner
    arrays = np.load(folder / 'arrays.npz')
    x, y = arrays['x'], arrays['y']
    data = ImageData.from_arrays(x, y, x[:BATCH], y[:BATCH], size=32, aug='flip+crop', bs=BATCH)
    data.valid = None
    learn = Learner(data, torch_model(name))
    return (lambda: learn.fit(1e-2, 1)), {'precision': learn.precision}

def fastai_turn(folder, name):
    import fastai
    from fastai.vision.all import (
        SGD,
        CropPad,
        CrossEntropyLossFlat,
        FlipItem,
        ImageDataLoaders,
        Learner,
        Normalize,
        PadMode,
        RandomCrop,
        cifar_stats,
    )
    flip_crop = [FlipItem(0.5), CropPad(40, pad_mode=PadMode.Reflection), RandomCrop(32)]
    dls = ImageDataLoaders.from_folder(folder / 'pictures', valid='valid', bs=BATCH, item_tfms=flip_crop,
                                       batch_tfms=[Normalize.from_stats(*cifar_stats)])
    learn = Learner(dls, torch_model(name), loss_func=CrossEntropyLossFlat(), opt_func=SGD)
    learn.dls.valid = learn.dls.valid.new(shuffle=False)
    from fastai.callback.core import CancelValidException
    from fastai.learner import Callback
    class TrainOnly(Callback):                  # lessondl's turn has no validation either
        def before_validate(self): raise CancelValidException
    about = {'fastai': fastai.__version__, 'workers': dls.train.fake_l.num_workers}
    return (lambda: learn.fit(1, 1e-2, cbs=TrainOnly())), about

def keras_turn(folder, name):
    os.environ['KERAS_BACKEND'] = 'torch'
    import keras
    import numpy as np
    from keras import layers as L
    keras.mixed_precision.set_global_policy('mixed_bfloat16')
    arrays = np.load(folder / 'arrays.npz')
    def bn(h, nf, stride=2, kernel=3):
        conv = L.Conv2D(nf, kernel, stride, padding='same', use_bias=False, activation='relu')
        return L.BatchNormalization()(conv(h))
    x = inputs = keras.Input((32, 32, 3))
    x = L.RandomFlip('horizontal')(x)
    x = L.RandomTranslation(4 / 32, 4 / 32, fill_mode='reflect')(x)
    x = L.Rescaling(1 / 255)(x)
    if name == 'SimpleNet': x = L.Dense(40, activation='relu')(L.Flatten()(x))
    else:
        x = bn(x, SIZES[0], 1, 7)
        for nf in SIZES[1:]:
            x = bn(x, nf)
            for _ in range(2): x = L.add([x, bn(x, nf, 1)])
        x = L.Dropout(0.2)(L.GlobalMaxPooling2D()(x))
    model = keras.Model(inputs, L.Dense(10, activation='softmax', dtype='float32')(x))
    model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), 'sparse_categorical_crossentropy')
    about = {'keras': keras.__version__, 'backend': keras.backend.backend()}
    return (lambda: model.fit(arrays['x'], arrays['y'], batch_size=BATCH, epochs=1, verbose=0)), about

def work(who, folder, name):
    "A worker: make all ready, then one turn for each line on standard input, with its seconds as the answer"
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                                # tables and bars go to stderr
    turn, about = globals()[f'{who}_turn'](Path(folder), name)
    import torch
    about |= {'torch': torch.__version__.split('+')[0], 'threads': torch.get_num_threads()}
    print(json.dumps(about), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        turn()
        print(time.perf_counter() - start, file=answers, flush=True)

def prepare(folder: Path, n: int):
    "The same pictures as arrays and as a folder of PNG files, which lose nothing"
    import numpy as np
    from PIL import Image

    from lessondl.datasets import cifar10
    x, y, _, _, classes = cifar10()
    if len(x) < 50_000:
        raise SystemExit("peers.py measures on the real CIFAR-10 only: "
                         "set LESSONDL_DATA to the folder that holds it")
    np.savez(folder / 'arrays.npz', x=x[:n], y=y[:n])
    for i in range(n + BATCH):
        path = folder / 'pictures' / ('train' if i < n else 'valid') / classes[y[i]] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(path)

def measure(name, pythons, folder, pairs, n):
    workers, about, seconds = {}, {}, {}
    try:
        for who, python in pythons.items():
            command = [python, __file__, '--worker', who, str(folder), name]
            workers[who] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True,
                                            env={**os.environ, 'PYTHONPATH': str(HERE.parent)})
            line = workers[who].stdout.readline()
            if not line: raise SystemExit(f"{who} did not start: try {' '.join(command)}")
            about[who], seconds[who] = json.loads(line), []
        order = list(workers)
        for i in range(pairs + 1):
            for who in order if i % 2 else order[::-1]:
                print('go', file=workers[who].stdin, flush=True)
                t = float(workers[who].stdout.readline())
                if i: seconds[who].append(t)     # the first turn compiles and fills caches
                print(f'{name} turn {i}: {who} {n / t:,.0f} pictures/s', flush=True)
    finally:
        for w in workers.values(): w.kill(); w.wait()
    ours = seconds['lessondl']
    ratios = {who: sorted(t / o for t, o in zip(seconds[who], ours)) for who in seconds if who != 'lessondl'}
    return {'model': name, 'about': about, 'seconds': seconds,
            'pictures_per_second': {who: n / st.median(t) for who, t in seconds.items()},
            'times_as_fast': {who: {'median': st.median(r), 'lowest': r[0], 'highest': r[-1]}
                              for who, r in ratios.items()}}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--fastai'); p.add_argument('--keras')
    p.add_argument('--pairs', type=int, default=7)
    p.add_argument('--pictures', type=int, default=12_800)
    p.add_argument('--models', nargs='+', default=['Resnet2', 'SimpleNet'])
    args = p.parse_args()
    peers = {'fastai': args.fastai, 'keras': args.keras}
    pythons = {'lessondl': sys.executable} | {who: path for who, path in peers.items() if path}
    if len(pythons) == 1:
        p.error('name the interpreter of at least one peer: --fastai PYTHON, --keras PYTHON')
    from machine import machine, write_json
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.pictures)
        runs = [measure(name, pythons, Path(folder), args.pairs, args.pictures) for name in args.models]
    write_json(HERE / 'results' / 'peers.json',
               {'machine': machine(), 'pictures': args.pictures, 'batch': BATCH, 'pairs': args.pairs,
                'runs': runs})
    for r in runs:
        for who, q in r['times_as_fast'].items():
            print(f"{r['model']}: {q['median']:.2f} times as fast as {who} "
                  f"({q['lowest']:.2f} to {q['highest']:.2f}, {args.pairs} turns)")

if __name__ == '__main__': work(*sys.argv[2:5]) if sys.argv[1:2] == ['--worker'] else main()
