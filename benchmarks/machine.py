"What a measurement was made with: hardware, versions, date; and writing it down whole"
import datetime
import hashlib
import json
import os
import platform
from pathlib import Path


def cpu() -> str:
    try:
        lines = open('/proc/cpuinfo')
        names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    except OSError: names = []
    return names[0] if names else platform.processor()

def machine() -> dict:
    import numpy
    import torch

    import lessondl
    tests = {n: getattr(torch.cpu, f'_is_{n}_supported', bool)() for n in ('avx512_bf16', 'amx_tile')}
    return dict(cpu=cpu(), cores=os.cpu_count(), torch_threads=torch.get_num_threads(),
                has=[n for n, yes in tests.items() if yes], python=platform.python_version(),
                torch=torch.__version__.split('+')[0], numpy=numpy.__version__, lessondl=lessondl.__version__,
                date=datetime.date.today().isoformat())

def write_json(path: Path, data):
    "To a temporary name, then moved: an interrupted run leaves the old file whole"
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(data, indent=1) + '\n')
    os.replace(part, path)

def cifar10_name(test_x) -> str:
    "Which CIFAR-10 a run was on, by its test pictures: ours is a copy that was stored as JPEG"
    digest = hashlib.md5(test_x.tobytes()).hexdigest()
    copy = digest == '21fd9503b37a2acdd99b2f46ccee78d9'
    return 'CIFAR-10, JPEG copy' if copy else f'CIFAR-10, test pictures with MD5 {digest[:8]}'
