"""Nets under the mouse, in Chromium: how long a hover and an edit take, how large a page is.

    python benchmarks/explore.py [--out benchmarks/results/explore.json]

A hover is measured twice: its handler alone, and the frame in which the panel is drawn anew, layout and
painting included. An edit types one number into the first kernel: its handler computes all that follows.
"""
import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import machine, write_json
from playwright.sync_api import sync_playwright
from torch import nn

from lessondl.cnn import Resnet2
from lessondl.explore import explore_html

arguments = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking']
# milliseconds at the 95th percentile; the size and the time to build are those of the digits and of Resnet2
aims = {'hover, handler': 2, 'hover, frame': 16, 'edit of the digits': 30,
        'page of the digits, MB': 1, 'page of Resnet2, MB': 16, 'built in, s': 3}


def nets():
    torch.manual_seed(0)
    digits = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                           nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                           nn.Flatten(), nn.Linear(392, 10), nn.LogSoftmax(-1))
    yield 'digits 28x28', digits, torch.randn(1, 1, 28, 28)
    first = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU())
    yield 'first layer 224x224', first, torch.randn(1, 3, 224, 224)
    yield 'Resnet2 32x32', Resnet2([16, 32, 64, 128, 256], 10), torch.randn(1, 3, 32, 32)


hover = '''async () => {
    const { app } = document.querySelector('.lessondl-explore')
    const view = [...app.views.values()].find(v => v.s.op === 'convolution'), { canvas, s } = view
    canvas.scrollIntoView()
    const handler = [], frame = []
    for (let k = 0; k < 120; k++) {
        const box = canvas.getBoundingClientRect(), [x, y, w, h] = view.rect((k * 7919) % s.size)
        const event = { clientX: box.left + x + w / 2, clientY: box.top + y + h / 2 }
        await new Promise(done => {
            requestAnimationFrame(() => {             // asked for first, so it runs before the one that draws
                const begun = performance.now()
                setTimeout(() => { frame.push(performance.now() - begun); done() }, 0)
            })
            const start = performance.now()
            canvas.dispatchEvent(new PointerEvent('pointermove', event))
            handler.push(performance.now() - start)
        })
    }
    return { handler, frame }
}'''
edit = '''() => {
    const { app } = document.querySelector('.lessondl-explore')
    const before = app.net.outputs[0].values.slice(), took = []
    document.querySelector('.step .name button').click()
    const number = document.querySelector('.kernel input')
    for (let k = 0; k < 30; k++) {
        number.value = k / 10
        const start = performance.now()
        number.dispatchEvent(new InputEvent('input'))
        took.push(performance.now() - start)
    }
    if (app.net.outputs[0].values.every((v, k) => v === before[k])) throw new Error('nothing has changed')
    return took
}'''


def summary(took: list[float]) -> dict:
    took = sorted(took[10:])      # the first ones also compile
    return dict(median=round(statistics.median(took), 2), p95=round(took[int(.95*len(took))], 2))


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'explore.json')
    parser.add_argument('--chromium', default='/usr/bin/chromium')
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as tmp, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=args.chromium, args=arguments)
        for name, net, x in nets():
            path = explore_html(net.eval(), x, path=Path(tmp)/'page.html')       # warms PyTorch up
            start = time.perf_counter()
            explore_html(net, x, path=path)
            seconds = time.perf_counter() - start
            page = chromium.new_page(viewport={'width': 1200, 'height': 900})
            page.goto(path.as_uri())
            page.locator('.panel[data-value]').wait_for()
            took = page.evaluate(hover)
            rows[name] = {'page, MB': round(path.stat().st_size/1e6, 2), 'built in, s': round(seconds, 2),
                          'hover, handler': summary(took['handler']), 'hover, frame': summary(took['frame']),
                          'edit': summary(page.evaluate(edit))}
            print(name, rows[name], flush=True)
            page.close()
        version = chromium.version
        chromium.close()
    load = round(os.getloadavg()[0], 1)    # of all the machine did: above 1 the times are too long
    write_json(args.out, dict(machine=machine(), load=load, chromium=version, aims=aims, rows=rows))


if __name__ == '__main__':
    main()
