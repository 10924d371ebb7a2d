"What a notebook cannot test of `lessondl.datasets`: network, disk, other processes, all forms of CIFAR-10."
import errno
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lessondl import datasets as D
from lessondl.datasets import DownloadError, Source, check_file, cifar10, download, fetch, unpack

payload = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
md5 = hashlib.md5(payload).hexdigest()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    "No test reads or writes the data of the one who runs it."
    for name in ('LESSONDL_SAMPLE', 'IN_TEST', 'LESSONDL_DATA'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setenv('LOCALAPPDATA', str(tmp_path/'cache'))
    monkeypatch.setenv('LESSONDL_DATA', str(tmp_path/'data')); (tmp_path/'data').mkdir()
    monkeypatch.setattr(D, '_offline', False)


@pytest.fixture
def server():
    "A server on loopback; `cuts`: after how many bytes it hangs up, one number for each request."
    s = SimpleNamespace(files={'/f.bin': payload}, ranges=True, cuts=[], asked=[], slow=0., status=200,
                        announce=True)
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data, start = s.files.get(self.path), 0
            s.asked.append((self.path, self.headers.get('Range')))
            if data is None or s.status != 200: return self.send_error(404 if data is None else s.status)
            if s.ranges and (asked := self.headers.get('Range')):
                start = int(asked.removeprefix('bytes=').rstrip('-'))
                if start >= len(data): return self.send_error(416)
            self.send_response(206 if start else 200)
            if start: self.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
            if s.announce: self.send_header('Content-Length', str(len(data) - start))
            self.end_headers(); time.sleep(s.slow)
            cut = s.cuts.pop(0) if s.cuts else len(data)
            self.wfile.write(data[start:start + cut]); self.wfile.flush()
        def log_message(self, *_): pass
    http = ThreadingHTTPServer(('127.0.0.1', 0), Handler); http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    s.url = f'http://127.0.0.1:{http.server_port}/f.bin'; s.base = s.url.removesuffix('/f.bin')
    s.source = Source('f.bin', (s.url,), len(payload), md5=md5)
    yield s
    http.shutdown(); http.server_close()


def whole(path):
    "The file is right and nothing else is left beside it."
    names = sorted(p.name for p in path.parent.iterdir())
    return path.read_bytes() == payload and names == ['.f.bin.lock', 'f.bin']

def quickest(f, tries=5):
    "Seconds of the quickest of a few calls: the others wait for whatever else the machine does."
    took = []
    for _ in range(tries):
        t = time.perf_counter(); f(); took.append(time.perf_counter() - t)
    return min(took)

# ---- downloads

def test_download(server, tmp_path):
    assert whole(download(server.source, tmp_path/'d')) and server.asked == [('/f.bin', None)]
    download(server.source, tmp_path/'d'); assert len(server.asked) == 1  # it is there

def test_cut_connections_are_resumed(server, tmp_path):
    server.cuts = [100_000, 1, 50_000]
    assert whole(download(server.source, tmp_path/'d'))
    assert [r for _, r in server.asked] == [None, 'bytes=100000-', 'bytes=100001-', 'bytes=150001-']

def test_a_later_run_resumes(server, tmp_path):
    server.cuts = [1000] * 2
    with pytest.raises(DownloadError, match='cut after 2,000 of 300,000 bytes'):
        download(server.source, tmp_path/'d', tries=2)
    assert (tmp_path/'d'/'f.bin.part').stat().st_size == 2000 and not (tmp_path/'d'/'f.bin').exists()
    assert whole(download(server.source, tmp_path/'d')) and server.asked[-1][1] == 'bytes=2000-'

def test_server_without_range(server, tmp_path):
    server.ranges = False; server.cuts = [100_000]
    assert whole(download(server.source, tmp_path/'d')) and len(server.asked) == 2

def test_nothing_comes_any_more(server, tmp_path):
    server.cuts = [100_000] + [0] * 20
    with pytest.raises(DownloadError, match='cut after 100,000'): download(server.source, tmp_path/'d')
    assert len(server.asked) == 2  # one that brings nothing is not asked ten times

def test_wrong_checksum(server, tmp_path):
    bad = Source('f.bin', (server.url,), len(payload), sha256='0' * 64)
    with pytest.raises(DownloadError) as e: download(bad, tmp_path/'d')
    text = str(e.value)
    assert 'f.bin' in text and server.url in text and 'sha256' in text and 'expected 000' in text
    assert 'by hand' in text and 'LESSONDL_DATA' in text and not e.value.offline
    assert not list((tmp_path/'d').glob('f.bin*'))  # nothing of it is kept

def test_wrong_size_is_refused_before_it_comes(server, tmp_path):
    with pytest.raises(DownloadError, match='offers 300,000 bytes, expected 5'):
        download(Source('f.bin', (server.url,), 5), tmp_path/'d')

def test_next_mirror(server, tmp_path):
    server.files['/other'] = payload[:-1] + bytes([payload[-1] ^ 1])  # the right size, one bit wrong
    mirrors = (f'{server.base}/other', f'{server.base}/none', server.url)
    assert whole(download(Source('f.bin', mirrors, len(payload), md5=md5), tmp_path/'d'))
    assert [p for p, _ in server.asked] == ['/other', '/none', '/f.bin']

def part_in(tmp_path, content):
    (tmp_path/'d').mkdir(); (tmp_path/'d'/'f.bin.part').write_bytes(content); return tmp_path/'d'

@pytest.mark.parametrize('n', [10, 300_000, 400_000])  # too few, as many (never asked), too many (416)
def test_leftover_part_of_another_file(server, tmp_path, n):
    "The checksum says no, and the only mirror is good: it is asked once more, from the start."
    folder = part_in(tmp_path, b'?' * n)
    assert whole(download(server.source, folder)) and server.asked[-1] == ('/f.bin', None)
    assert len(server.asked) == (1 if n == 300_000 else 2)

def test_leftover_part_and_a_wrong_mirror(server, tmp_path):
    "From the start once, not ten times; then the next mirror, and nothing is kept."
    folder = part_in(tmp_path, b'?' * 10); server.files['/other'] = bytes(len(payload))
    source = Source('f.bin', (server.base + '/other',) * 2, len(payload), md5=md5)
    with pytest.raises(DownloadError, match='md5'): download(source, folder)
    assert [r for _, r in server.asked] == ['bytes=10-', None, None]
    assert not list(folder.glob('f.bin*'))

@pytest.mark.parametrize('ranges', [True, False])  # with them a short page is answered with 416
def test_a_page_in_place_of_the_file_leaves_what_has_come(server, tmp_path, ranges):
    folder = part_in(tmp_path, payload[:90_000])
    server.files['/login'] = b'please log in here'; server.ranges = ranges
    with pytest.raises(DownloadError, match='416' if ranges else 'offers 18 bytes, expected 300,000'):
        download(Source('f.bin', (server.base + '/login',), len(payload), md5=md5), folder)
    assert (folder/'f.bin.part').read_bytes() == payload[:90_000] and len(server.asked) == 1
    server.ranges = True
    assert whole(download(server.source, folder)) and server.asked[-1][1] == 'bytes=90000-'

def test_whole_part_needs_no_network(tmp_path):
    (tmp_path/'f.bin.part').write_bytes(payload)
    assert download(Source('f.bin', ('http://127.0.0.1:9/f.bin',), len(payload), md5=md5), tmp_path).exists()

def test_no_length_announced(server, tmp_path):
    server.announce = False
    assert whole(download(server.source, tmp_path/'d'))
    server.cuts = [7]
    got = download(Source('g.bin', (server.url,)), tmp_path/'d')
    assert got.stat().st_size == 7  # nothing is known of it, so nothing is checked

@pytest.mark.parametrize('status', [403, 404, 500, 503])
def test_http_errors(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)) as e: download(server.source, tmp_path/'d')
    assert not e.value.offline

def test_disk_full_is_seen_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(D.shutil, 'disk_usage', lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match='disk is full.*300,000 bytes to come, 1,000 free.*Make room'):
        download(server.source, tmp_path/'d')

def test_disk_full_in_the_middle(server, tmp_path, monkeypatch):
    class Full:
        def __init__(self, f): self.f, self.n = f, 0
        def __enter__(self): return self
        def __exit__(self, *a): self.f.close()
        def write(self, b):
            self.n += len(b)
            if self.n > 100_000: raise OSError(errno.ENOSPC, 'No space left on device')
            return self.f.write(b)
    to_part = lambda p, m: str(p).endswith('.part') and m[0] in 'aw'
    monkeypatch.setattr(D, 'open', lambda p, m='r': Full(open(p, m)) if to_part(p, m) else open(p, m),
                        raising=False)
    with pytest.raises(DownloadError, match='disk is full'): download(server.source, tmp_path/'d')
    monkeypatch.undo()
    assert whole(download(server.source, tmp_path/'d')) and server.asked[-1][1].startswith('bytes=')

def test_two_at_once(server, tmp_path):
    server.slow = .3
    got = []
    ask = lambda: got.append(download(server.source, tmp_path/'d'))
    ts = [threading.Thread(target=ask) for _ in range(3)]
    for t in ts: t.start()
    for t in ts: t.join()
    assert len(got) == 3 and len(server.asked) == 1 and whole(got[0])

def test_two_processes_at_once(server, tmp_path):
    server.slow = .5
    code = ('import sys; from lessondl.datasets import *; from lessondl.datasets import Source, download\n'
            'download(Source("f.bin", (sys.argv[1],), 300000), sys.argv[2])')
    command = [sys.executable, '-c', code, server.url, str(tmp_path/'d')]
    ps = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.communicate(timeout=60) and p.returncode for p in ps] == [0, 0]
    assert len(server.asked) == 1 and whole(tmp_path/'d'/'f.bin')

def test_lock_of_a_dead_process_is_free(server, tmp_path):
    code = ('import sys, os; from pathlib import Path; from lessondl.datasets import _lock\n'
            'with _lock(Path(sys.argv[1])): os._exit(1)')
    subprocess.run([sys.executable, '-c', code, str(tmp_path/'.f.bin.lock')], timeout=60)
    assert (tmp_path/'.f.bin.lock').exists()
    t = time.monotonic(); download(server.source, tmp_path); assert time.monotonic() - t < 2

def test_dead_network_fails_fast_and_is_asked_once(monkeypatch, capsys):
    draw = D.cifar10_standin; monkeypatch.setattr(D, 'cifar10_standin', lambda *_: draw(20, 10))  # quicker
    asked = []
    def hang(req, timeout): asked.append(req.full_url); time.sleep(60)  # a name server that never answers
    monkeypatch.setattr(D.urllib.request, 'urlopen', hang)
    monkeypatch.setattr(D, 'download', lambda s, f=None, real=download: real(s, f, timeout=.2))
    t = time.monotonic()
    *_, classes = cifar10(); text = D.nietzsche(); D.tiny_shakespeare(); cifar10()
    assert time.monotonic() - t < 10 and len(asked) == 2  # the two mirrors of the first set, once
    assert classes == D.standin_classes and text == D.text_corpus()
    said = capsys.readouterr().out
    assert said.count('no network') == 1 and 'CIFAR-10 stand-in' in said and 'Nietzsche stand-in' in said
    assert 'LESSONDL_DATA' in said and str(D.write_root()) in said

def test_refused_connection_is_offline(tmp_path):
    with pytest.raises(DownloadError) as e: download(Source('f.bin', ('http://127.0.0.1:9/f.bin',)), tmp_path)
    assert e.value.offline and 'refused' in str(e.value)

def test_fetch(server, tmp_path, monkeypatch):
    monkeypatch.setitem(D.sources, 'mine', server.source)
    assert fetch('mine') == D.cache_root()/'f.bin'  # what the reader named is read, never written
    assert list((tmp_path/'data').iterdir()) == []
    (tmp_path/'data'/'f.bin').write_bytes(b'my own'); assert fetch('mine') == tmp_path/'data'/'f.bin'
    with pytest.raises(ValueError, match='no source is named .cifar11.*cifar10'): fetch('cifar11')

@pytest.mark.parametrize('env', ['LESSONDL_SAMPLE', 'IN_TEST'])
def test_sample_mode_touches_no_network(monkeypatch, env, capsys):
    monkeypatch.setenv(env, '1')
    monkeypatch.setattr(D.urllib.request, 'urlopen', lambda *a, **k: pytest.fail('asked the network'))
    assert cifar10()[0].shape == (500, 32, 32, 3)
    assert len(D.nietzsche()) == len(D.tiny_shakespeare()) == 20_000
    with pytest.raises(DownloadError, match='LESSONDL_SAMPLE'): fetch('cifar10')
    assert capsys.readouterr().out.count('\n') == 3  # one line each

def test_sample_only(monkeypatch):
    assert not D.sample_only()
    monkeypatch.setenv('IN_TEST', '1'); assert D.sample_only()
    monkeypatch.setenv('LESSONDL_SAMPLE', '0'); assert not D.sample_only()
    monkeypatch.delenv('IN_TEST'); monkeypatch.setenv('LESSONDL_SAMPLE', '1'); assert D.sample_only()

def test_known_checksums():
    "The figures by which the real files are known, as their publishers and other libraries give them."
    assert D.sources['cifar10'].size == 170498071
    assert D.sources['cifar10'].md5 == 'c58f30108f718f92721af3b95e74349a'
    assert D.sources['imagenette-160'].md5 == 'e793b78cc4c9e9a4ccc0c1155377a412'
    assert D.sources['imagenette-320'].md5 == '3df6f0d01a2c9592104656642f5e78a3'
    for s in D.sources.values(): assert s.size and s.urls[0].startswith('https://')

def test_checksum_of_the_first_mebibyte(tmp_path):
    "fast.ai's list of files has the md5 of their beginning alone"
    file, head = tmp_path/'f.bin', payload * 4
    file.write_bytes(head + b'more')
    good = hashlib.md5(head[:1 << 20]).hexdigest()
    check_file(file, Source('f.bin', (), len(head) + 4, head_md5=good))
    with pytest.raises(ValueError, match=f'begins with other bytes.* expected {"0" * 32}'):
        check_file(file, Source('f.bin', (), len(head) + 4, head_md5='0' * 32))

# ---- photographs by name

def photographs(path, folder, splits, classes):
    "A tiny archive in the layout of the real one"
    path.parent.mkdir(exist_ok=True)
    return tar_of(path, *[(f'{folder}/{s}/{c}/{c}_1.jpg', file, b'x') for s in splits for c in classes],
                  (f'{folder}/notes.csv', file, b'path,label'))

def test_imagenette_is_downloaded_once_with_readable_names(server, tmp_path, monkeypatch):
    archive = photographs(tmp_path/'site'/'a.tgz', 'imagenette2-160', ('train', 'val'), D.imagenette_classes)
    server.files['/a.tgz'] = archive.read_bytes()
    source = Source('imagenette2-160.tgz', (server.base + '/a.tgz',), archive.stat().st_size,
                    md5=hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(D.sources, 'imagenette-160', source)
    path = D.imagenette()
    assert path == D.cache_root()/'imagenette2-160' and D.imagenette() == path and len(server.asked) == 1
    assert sorted(p.name for p in path.iterdir()) == ['notes.csv', 'train', 'val']
    assert sorted(p.name for p in (path/'val').iterdir()) == sorted(D.imagenette_classes.values())
    assert (path/'train'/'tench'/'n01440764_1.jpg').is_file()
    assert list((tmp_path/'data').iterdir()) == []                 # what the reader named is never written
    monkeypatch.setitem(D.sources, 'imagenette-160', Source(source.filename, source.urls, 5))
    shutil.rmtree(path); (D.cache_root()/'imagenette2-160.tgz').unlink()
    with pytest.raises(DownloadError, match='expected 5'): D.imagenette()
    assert not path.exists()

def test_photographs_of_the_reader_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(D.urllib.request, 'urlopen', lambda *a, **k: pytest.fail('asked the network'))
    own = tmp_path/'data'/'imagenette2-320'/'train'/'n01440764'; own.mkdir(parents=True)
    assert D.imagenette(320) == tmp_path/'data'/'imagenette2-320' and own.is_dir()     # as it is
    photographs(tmp_path/'data'/'dogscats.tgz', 'dogscats', ('train', 'valid'), ('cats', 'dogs'))
    path = D.dogscats()
    assert path == D.cache_root()/'dogscats' and (path/'valid'/'cats'/'cats_1.jpg').is_file()
    with pytest.raises(ValueError, match='160 and 320 pixels, not 224'): D.imagenette(224)

def test_photographs_without_a_network(tmp_path, monkeypatch):
    for name, f in (('imagenette-160', D.imagenette), ('dogscats', D.dogscats)):
        monkeypatch.setitem(D.sources, name, Source(D.sources[name].filename, ('http://127.0.0.1:9/f',)))
        with pytest.raises(DownloadError, match='by hand and put it into .* LESSONDL_DATA') as e: f()
        assert D.sources[name].filename in str(e.value)
    monkeypatch.setenv('LESSONDL_SAMPLE', '1')
    with pytest.raises(DownloadError, match='LESSONDL_SAMPLE=1'): D.imagenette()

def test_an_archive_of_something_else(tmp_path):
    tar_of(tmp_path/'data'/'dogscats.tgz', good)
    with pytest.raises(ValueError, match='no folder dogscats/train: delete it'): D.dogscats()
    assert not (D.cache_root()/'dogscats').exists()

# ---- archives

def tar_of(path, *entries):
    with tarfile.open(path, 'w:gz') as t:
        for name, kind, data in entries:
            m = tarfile.TarInfo(name); m.type = kind
            if kind == tarfile.REGTYPE: m.size = len(data); t.addfile(m, io.BytesIO(data))
            else: m.linkname = data; t.addfile(m)
    return path

good = ('a/b.txt', tarfile.REGTYPE, b'hello')
file = tarfile.REGTYPE
evil = [('../out.txt', file, b'x'), ('/etc/out.txt', file, b'x'), ('a/../../out', file, b'x'),
        ('C:/out.txt', file, b'x'), ('..\\out.txt', file, b'x'), ('link', tarfile.SYMTYPE, '/etc'),
        ('hard', tarfile.LNKTYPE, 'a/b.txt'), ('pipe', tarfile.FIFOTYPE, ''), ('dev', tarfile.CHRTYPE, '')]

def test_unpack(tmp_path):
    assert (unpack(tar_of(tmp_path/'x.tgz', good), tmp_path/'out')/'a'/'b.txt').read_text() == 'hello'
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr('a/', ''); z.writestr('a/b.txt', 'hello')
    assert (unpack(tmp_path/'x.zip', tmp_path/'out2')/'a'/'b.txt').read_text() == 'hello'
    assert unpack(tmp_path/'missing.zip', tmp_path/'out') == tmp_path/'out'  # already unpacked
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[:3] in ('out', '.un')) == ['out', 'out2']

def test_unpack_what_was_packed_as_a_dot(tmp_path):
    (tmp_path/'in'/'a').mkdir(parents=True); (tmp_path/'in'/'a'/'b.txt').write_text('hello')
    with tarfile.open(tmp_path/'x.tgz', 'w:gz') as t: t.add(tmp_path/'in', '.')
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr('./', ''); z.writestr('./a/b.txt', 'hello')
    for k, name in enumerate(('x.tgz', 'x.zip')):
        assert (unpack(tmp_path/name, tmp_path/f'out{k}')/'a'/'b.txt').read_text() == 'hello'

def test_unpack_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(D.shutil, 'copyfileobj', full); (tmp_path/'home').mkdir()
    with pytest.raises(OSError, match='no room for a/b.txt of .*x.tgz.*Make room') as error:
        unpack(tar_of(tmp_path/'x.tgz', good), tmp_path/'home'/'out')
    assert error.value.errno == errno.ENOSPC and list((tmp_path/'home').iterdir()) == []

def test_a_bit_is_wrong_in_a_zip(tmp_path):
    "The damage is met while a file is read, not while the names are: the same error, and nothing is kept."
    words = ' '.join(map(str, range(2000))).encode()
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path/'x.zip', 'w', kind) as z: z.writestr('a', b'hi'); z.writestr('b', words)
        b = bytearray((tmp_path/'x.zip').read_bytes()); b[len(b)//2] ^= 4; (tmp_path/'x.zip').write_bytes(b)
        with pytest.raises(ValueError, match='x.zip is damaged or incomplete.*delete it'):
            unpack(tmp_path/'x.zip', tmp_path/'home'/'out')
        assert list((tmp_path/'home').iterdir()) == []

def test_unpack_in_three_threads(tmp_path, monkeypatch):
    tar_of(tmp_path/'x.tgz', good); got, all_there = [], threading.Barrier(3)
    real = shutil.copyfileobj
    def together(*a): all_there.wait(10); real(*a)  # no one is first
    monkeypatch.setattr(D.shutil, 'copyfileobj', together)
    def run():
        try: got.append(unpack(tmp_path/'x.tgz', tmp_path/'home'/'out'))
        except Exception as e: got.append(e)
    ts = [threading.Thread(target=run) for _ in range(3)]
    for t in ts: t.start()
    for t in ts: t.join()
    assert got == [tmp_path/'home'/'out'] * 3 and (got[0]/'a'/'b.txt').read_text() == 'hello'
    assert [p.name for p in (tmp_path/'home').iterdir()] == ['out']

@pytest.mark.skipif(os.name == 'nt', reason='has no such modes')
def test_others_may_read_what_was_made(tmp_path):
    "A temporary folder is for its owner alone; what it becomes is not."
    mode = lambda p: p.stat().st_mode & 0o777
    assert mode(unpack(tar_of(tmp_path/'x.tgz', good), tmp_path/'out')) == 0o755
    folder_of(tmp_path/'data'/'cifar10'); cifar10()
    assert [mode(p) for p in D.cache_root().glob('cifar10-*')] == [0o755]

@pytest.mark.parametrize('entry', evil, ids=lambda e: e[0])
def test_unpack_refuses(tmp_path, entry):
    (tmp_path/'in').mkdir(); home = tmp_path/'home'; home.mkdir()
    with pytest.raises(ValueError, match='x.tgz.*(outside|link or a device)'):
        unpack(tar_of(tmp_path/'in'/'x.tgz', good, entry), home/'out')
    assert list(home.iterdir()) == [] and not (tmp_path/'out.txt').exists()  # not even the good entry

def test_unpack_zip_refuses(tmp_path):
    for k, name in enumerate(['../out.txt', '/out.txt']):
        with zipfile.ZipFile(tmp_path/f'{k}.zip', 'w') as z: z.writestr(name, 'x')
        with pytest.raises(ValueError, match='outside'): unpack(tmp_path/f'{k}.zip', tmp_path/'o')
    with zipfile.ZipFile(tmp_path/'l.zip', 'w') as z:
        m = zipfile.ZipInfo('link'); m.external_attr = 0o120777 << 16; z.writestr(m, '/etc')
    with pytest.raises(ValueError, match='link'): unpack(tmp_path/'l.zip', tmp_path/'o')

pieces = st.sampled_from(['..', 'a', '.', '', 'b.txt', '/', '\\', 'C:'])

@given(st.lists(pieces, min_size=1, max_size=5), st.sampled_from('/\\'))
def test_no_name_leads_outside(parts, sep):
    name = sep.join(parts)
    try: D._check_member(name, True, Path('x.tgz'))
    except ValueError: return
    base = Path('/base').resolve()
    assert base in [(base/name).resolve(), *(base/name).resolve().parents] and not name.startswith('/')

@pytest.mark.parametrize('keep', [0, 10, 200])
def test_damaged_archives(tmp_path, keep):
    tar_of(tmp_path/'w.tgz', ('a', tarfile.REGTYPE, os.urandom(1000)))
    (tmp_path/'x.tgz').write_bytes((tmp_path/'w.tgz').read_bytes()[:keep])
    with pytest.raises(ValueError, match='x.tgz is damaged or incomplete.*delete it'):
        unpack(tmp_path/'x.tgz', tmp_path/'o')

# ---- CIFAR-10 in every layout

names = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
rng = np.random.default_rng(0)
small = {s: rng.integers(0, 256, (10, n, 32, 32, 3), dtype=np.uint8) for s, n in (('train', 3), ('test', 2))}

def folder_of(root, ext='png'):
    for s, x in small.items():
        for c, name in enumerate(names):
            (root/s/name).mkdir(parents=True)
            for i, px in enumerate(x[c]): Image.fromarray(px).save(root/s/name/f'{i:04}.{ext}')
    (root/'labels.txt').write_text('\n'.join(names)); return root

def batches_of(root):
    root.mkdir(parents=True)
    flat = lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    for i in range(1, 6):  # two classes a batch
        x = small['train'][2*i - 2:2*i].reshape(-1, 32, 32, 3)
        labels = [c for c in (2*i - 2, 2*i - 1) for _ in range(3)]
        d = {b'data': flat(x), b'labels': labels, b'batch_label': b'?'}
        (root/f'data_batch_{i}').write_bytes(pickle.dumps(d, 2))
    labels = [c for c in range(10) for _ in range(2)]
    d = {b'data': flat(small['test'].reshape(-1, 32, 32, 3)), b'labels': labels}
    (root/'test_batch').write_bytes(pickle.dumps(d, 2)); return root

def packed(path, folder):
    with tarfile.open(path, 'w:gz') as t: t.add(folder, folder.name)
    return path

def same(got):
    tx, ty, vx, vy, classes = got
    assert classes == D.cifar10_classes
    assert ty.dtype == vy.dtype == np.int64 and tx.dtype == vx.dtype == np.uint8
    for x, y, want in ((tx, ty, small['train']), (vx, vy, small['test'])):
        assert len(x) == len(y) == 10*want.shape[1]
        for c in range(10):
            assert sorted(p.tobytes() for p in x[y == c]) == sorted(p.tobytes() for p in want[c])
    assert isinstance(tx, np.memmap)

@pytest.mark.parametrize('layout', ['folder', 'tgz', 'batches', 'tar.gz'])
def test_layouts(tmp_path, layout):
    data = tmp_path/'data'
    if layout == 'folder': folder_of(data/'cifar10')
    if layout == 'tgz': packed(data/'cifar10.tgz', folder_of(tmp_path/'x'/'cifar10'))
    if layout == 'batches': batches_of(data/'cifar-10-batches-py')
    if layout == 'tar.gz':
        packed(data/'cifar-10-python.tar.gz', batches_of(tmp_path/'x'/'cifar-10-batches-py'))
    before = sorted(data.rglob('*'))
    same(cifar10()); same(cifar10(data))
    assert sorted(data.rglob('*')) == before  # the reader's folder is never written
    caches = list(D.cache_root().glob('cifar10-*')); assert len(caches) == 1
    assert quickest(cifar10) < .1

def test_root_itself(tmp_path):
    same(cifar10(folder_of(tmp_path/'pictures')))
    same(cifar10(packed(tmp_path/'my.tgz', tmp_path/'pictures')))
    same(cifar10(batches_of(tmp_path/'b')))
    with pytest.raises(FileNotFoundError, match='no CIFAR-10 in.*expected train'): cifar10(tmp_path/'cache')

def test_read_only_memory(tmp_path):
    "What a reader writes into the arrays stays in memory."
    folder_of(tmp_path/'data'/'cifar10'); a = cifar10()[0]; first = a[0].copy(); a[0] = 0
    assert (cifar10()[0][0] == first).all()

def test_damaged_zip_of_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path/'c.zip', 'w') as z:
        for p in folder_of(tmp_path/'pictures').rglob('*.png'):
            z.write(p, p.relative_to(tmp_path).as_posix())
    same(cifar10(tmp_path/'c.zip'))
    b = bytearray((tmp_path/'c.zip').read_bytes()); b[1000] ^= 4; (tmp_path/'c.zip').write_bytes(b)
    with pytest.raises(ValueError, match='c.zip(: .* cannot be read| is damaged)'): cifar10(tmp_path/'c.zip')

def test_changed_source_is_read_anew(tmp_path):
    folder_of(tmp_path/'data'/'cifar10'); cifar10()
    Image.fromarray(small['train'][0, 0]).save(tmp_path/'data'/'cifar10'/'train'/'cat'/'new.png')
    assert len(cifar10()[0]) == 31

def test_damaged_cache_is_made_anew(tmp_path):
    folder_of(tmp_path/'data'/'cifar10'); cifar10()
    cache = next(D.cache_root().glob('cifar10-*')); b = (cache/'train_x.npy').read_bytes()
    (cache/'train_x.npy').write_bytes(b[:1000]); same(cifar10())
    (cache/'test_y.npy').unlink(); same(cifar10())

def test_leftovers_are_swept(tmp_path):
    (D.cache_root()/'.cifar10-dead').mkdir(parents=True); folder_of(tmp_path/'data'/'cifar10'); cifar10()
    assert not (D.cache_root()/'.cifar10-dead').exists()

def test_no_room_for_the_cache(tmp_path, monkeypatch, capsys):
    folder_of(tmp_path/'data'/'cifar10')
    def full(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(D.np, 'save', full)
    assert len(cifar10()[0]) == 30 and 'no cache of CIFAR-10' in capsys.readouterr().out
    assert not list(D.cache_root().glob('*cifar10-*'))

@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK', 'I;16', 'P', '1'])
def test_other_picture_modes_become_rgb(tmp_path, mode):
    root = folder_of(tmp_path/'c'); file = root/'train'/'cat'/('z.jpg' if mode == 'CMYK' else 'z.png')
    if mode == 'I;16': im = Image.fromarray(np.full((32, 32), 40_000, np.uint16))
    else: im = Image.new('RGB', (32, 32), (200, 100, 50)).convert(mode)
    im.save(file)
    tx, ty, *_ = cifar10(root)
    assert tx.shape == (31, 32, 32, 3)
    if mode == 'I;16': assert any((p == 40_000 >> 8).all() for p in tx[ty == 3])

def test_bad_pictures_are_named(tmp_path):
    root = folder_of(tmp_path/'c'); bad = root/'train'/'cat'/'bad.jpg'
    bad.write_text('no picture')
    pytest.raises(ValueError, cifar10, root).match('bad.jpg cannot be read as a picture')
    b = io.BytesIO(); Image.fromarray(small['train'][0, 0]).save(b, 'jpeg')
    bad.write_bytes(b.getvalue()[:300])
    pytest.raises(ValueError, cifar10, root).match('bad.jpg cannot be read as a picture.*(?i:truncated)')
    Image.new('RGB', (1, 1)).save(bad)
    pytest.raises(ValueError, cifar10, root).match('bad.jpg is 1x1 pixels, expected 32x32')
    bad.write_bytes(b''); pytest.raises(ValueError, cifar10, root).match('bad.jpg cannot be read')

def test_missing_parts_are_named(tmp_path):
    (tmp_path/'e'/'train').mkdir(parents=True)
    pytest.raises(ValueError, cifar10, tmp_path/'e').match('holds no pictures')
    root = folder_of(tmp_path/'c')
    for p in (root/'test'/'dog').iterdir(): p.unlink()
    pytest.raises(ValueError, cifar10, root).match('no pictures in test/dog')
    (batches_of(tmp_path/'b')/'data_batch_3').unlink()
    pytest.raises(ValueError, cifar10, tmp_path/'b').match('lacks data_batch_3')
    (tmp_path/'b'/'data_batch_3').write_bytes(b'garbage')
    pytest.raises(ValueError, cifar10, tmp_path/'b').match('data_batch_3 cannot be read')

@pytest.mark.parametrize('wrong', [{b'data': np.zeros((2, 3072), np.uint8), b'labels': [1]}, {b'labels': [1]},
                                   [1, 2], {b'data': 'text', b'labels': [1]}])
def test_batches_of_wrong_content_name_the_file(tmp_path, wrong):
    (batches_of(tmp_path/'b')/'data_batch_3').write_bytes(pickle.dumps(wrong, 2))
    with pytest.raises(ValueError, match='data_batch_3 cannot be read'): cifar10(tmp_path/'b')

def test_a_drawn_set_that_is_there_takes_no_lock(monkeypatch):
    folder = D.cartoons()
    def no(path): raise PermissionError(path)
    monkeypatch.setattr(D, '_lock', no)
    assert D.cartoons() == folder

def test_a_pickle_runs_no_program(tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'owned'),)
    (batches_of(tmp_path/'b')/'data_batch_1').write_bytes(pickle.dumps(Evil()))
    pytest.raises(ValueError, cifar10, tmp_path/'b').match('asks for .*mkdir')
    assert not (tmp_path/'owned').exists()

def test_archive_with_links_is_refused(tmp_path):
    tar_of(tmp_path/'data'/'cifar10.tgz', ('cifar10/train/cat/a.png', tarfile.SYMTYPE, '/etc/passwd'))
    with pytest.raises(ValueError, match='link or a device'): cifar10()
    (tmp_path/'data'/'cifar10.tgz').write_bytes(b'half a file')
    with pytest.raises(ValueError, match='cifar10.tgz is damaged'): cifar10()

def test_typo_in_the_folder_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('LESSONDL_DATA', str(tmp_path/'nowhere')); monkeypatch.setattr(D, '_offline', True)
    monkeypatch.setattr(D, 'cifar10_standin', lambda *_: (0,)*5)
    cifar10(); assert 'nowhere, and there is no such folder' in capsys.readouterr().out

def test_texts(tmp_path, monkeypatch):
    (tmp_path/'data'/'nietzsche.txt').write_text('Thus', encoding='utf-8'); assert D.nietzsche() == 'Thus'
    (tmp_path/'data'/'nietzsche.txt').write_bytes(b'\xff\xfe\x00')
    pytest.raises(ValueError, D.nietzsche).match('nietzsche.txt is not a text')

def test_new_memory_of_a_second_call(tmp_path):
    "A set of 90 MB: the second call in a new process maps it and reads none of it."
    psutil = pytest.importorskip('psutil')
    x = np.zeros((30_000, 32, 32, 3), np.uint8); y = np.arange(30_000) % 10
    folder_of(tmp_path/'data'/'cifar10')
    arrays = {'train_x': x, 'train_y': y, 'test_x': x[:9], 'test_y': y[:9], 'classes': np.array(names)}
    D._cached(tmp_path/'data'/'cifar10', lambda _: arrays)
    had = psutil.Process().memory_info().rss
    assert cifar10()[0].shape == x.shape and quickest(cifar10) < .1
    assert psutil.Process().memory_info().rss - had < 50e6

# ---- stand-ins

@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1100), st.integers(0, 50), st.integers(0, 5))
def test_standin(n_train, n_test, seed):
    tx, ty, vx, vy, classes = D.cifar10_standin(n_train, n_test, seed)
    assert tx.shape == (n_train, 32, 32, 3) and vx.shape == (n_test, 32, 32, 3)
    assert tx.dtype == np.uint8 and ty.dtype == np.int64
    assert len(classes) == 10 and np.ptp(np.bincount(ty, minlength=10)) <= 1
    again = D.cifar10_standin(n_train, n_test, seed); assert (again[0] == tx).all() and (again[1] == ty).all()

def test_standin_is_quick():
    t = time.process_time(); D.cifar10_standin(500, 0)
    assert time.process_time() - t < 1  # 0.15 s on an idle core

def test_standin_colours_say_nothing():
    "The mean colour of a picture predicts its class hardly better than a guess (10%)."
    tx, ty, vx, vy, _ = D.cifar10_standin(2000, 500)
    f = lambda x: np.concatenate([x.mean((1, 2)), x.std((1, 2))], 1)
    a, b = f(tx), f(vx); near = np.linalg.norm(b[:, None] - a[None], axis=-1).argsort(1)[:, :15]
    votes = np.array([np.bincount(v, minlength=10).argmax() for v in ty[near]])
    assert (votes == vy).mean() < .25

def test_digits_are_real():
    x, y = D.digits()
    assert x.shape == (5000, 28, 28) and x.dtype == np.uint8 and y.dtype == np.int64
    assert (np.bincount(y) == 500).all()
    sha = '458f1ccd72e6b1fb77f331e7100b7fed0c04b5a813d21022a9a49a28d55cd816'
    check_file(Path(D.__file__).with_name('digits.npz'), Source('digits.npz', (), sha256=sha))
    assert Path(D.__file__).with_name('digits.npz').stat().st_size < 900_000

# ---- folders

def test_roots(monkeypatch, tmp_path):
    assert D.data_root() == tmp_path/'data' and D.write_root() == D.cache_root()
    monkeypatch.delenv('LESSONDL_DATA')
    course = Path(D.__file__).resolve().parent.parent
    if (course/'settings.ini').exists(): assert D.data_root() == course/'data'
    monkeypatch.setattr(D, '_package', tmp_path/'site-packages'/'lessondl')
    assert D.data_root() == D.write_root() == D.cache_root() == tmp_path/'cache'/'lessondl'
