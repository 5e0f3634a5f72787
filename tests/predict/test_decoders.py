"""Whoever decodes a file, the result is the same, and no process is left."""

import multiprocessing
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consilia.errors import ReaderError
from consilia.predict import decoders, prefetch
from consilia.predict.decoders import Decoders, Reader
from consilia.predict.prefetch import read_ahead, spare_processes
from crashing_reader import CrashingReader


@pytest.fixture
def files(tmp_path):
    """Ten files: grey ones and coloured ones of several shapes, one that is broken and one that is missing."""
    generator = np.random.default_rng(5)
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        shape = (20 + number, 40) if number % 2 else (30, 20 + number, 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path)
    paths[4].write_bytes(b"no image")
    paths[7].unlink()
    return paths


@pytest.fixture
def reader(predictor):
    document = predictor.document
    return Reader(reading=document.reading, kinds=document.kinds, on_unknown_kind="refuse", with_colour=True)


@pytest.fixture
def any_are_many(monkeypatch):
    monkeypatch.setattr(decoders, "FEW", 0)


def named(files):
    return [(str(path), path) for path in files]


def plain(results):
    """Results that can be compared."""
    return [
        (name, str(each) if isinstance(each, ReaderError) else (each.pixels.tolist(), each.aspect, repr(each.colour)))
        for name, each in results
    ]


def begun(reader, *, n_processes=1):
    """Decoders whose processes wait for files."""
    found = Decoders(reader, n_processes=n_processes)
    found.read([])
    found.read([("begins", Path("missing"))])
    found._beginning.join()
    return found


def test_a_process_reads_what_a_thread_reads(reader, files, any_are_many, monkeypatch):
    expected = plain(reader.read(named(files)))
    pool = begun(reader)

    def refuse(*_):
        raise AssertionError("read in this process")

    monkeypatch.setattr(Reader, "read", refuse)
    try:
        first, again = pool.read(named(files)), pool.read(named(files[::-1]))
    finally:
        pool.close()
    assert plain(first) == plain(again)[::-1] == expected  # an answer does not change with the next one
    assert multiprocessing.active_children() == []


def test_what_a_dead_process_was_given_is_read_here(reader, files, any_are_many):
    pool = begun(reader)
    (process,) = multiprocessing.active_children()
    process.kill()
    process.join()
    try:
        assert plain(pool.read(named(files))) == plain(reader.read(named(files)))
    finally:
        pool.close()


def test_a_decoder_that_crashes_costs_its_image_alone(reader, files, any_are_many):
    expected = plain(reader.read(named(files)))
    pool = begun(CrashingReader(**{field.name: getattr(reader, field.name) for field in fields(Reader)}))
    kill = files[0].with_name("kill.png")
    try:
        found = pool.read(named([*files[:3], kill, *files[3:]]))
        again = pool.read(named(files))
    finally:
        pool.close()
    ((name, error),) = found[3:4]
    assert (name, plain(again)) == (str(kill), expected)
    assert "kill.png: its decoder crashed twice, the second time alone (signal SIGSEGV)" in str(error)
    assert plain(found[:3] + found[4:]) == expected
    assert multiprocessing.active_children() == []


def test_a_handful_of_files_begins_no_process(reader, files):
    pool = Decoders(reader, n_processes=2)
    pool.read(named(files))
    assert multiprocessing.active_children() == []
    pool.close()


def read_many(predictor, files, **options):
    return read_ahead(
        files,
        predictor.document,
        batch_size=16,
        on_unknown_kind="refuse",
        with_colour=False,
        n_threads=1,
        **options,
    )


def test_batches_come_in_order_whether_threads_or_processes_read(predictor, files, any_are_many):
    many = [*files, *files, np.zeros((30, 30), np.uint8), *files[3:]] * 8
    expected = [plain(batch) for batch in read_many(predictor, many)]
    assert [plain(batch) for batch in read_many(predictor, many, n_processes=2)] == expected
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_leaving_early_leaves_no_process(predictor, files, any_are_many, error):
    batches = read_many(predictor, files * 100, n_processes=2)
    for _ in range(10):
        next(batches)
    if error is None:
        batches.close()
    else:
        with pytest.raises(error):
            batches.throw(error)
    assert multiprocessing.active_children() == []


def test_an_error_of_the_iterable_leaves_no_process(predictor, files, any_are_many):
    def source():
        yield from files * 3
        raise RuntimeError("the list ended early")

    with pytest.raises(RuntimeError, match="ended early"):
        list(read_many(predictor, source(), n_processes=1))
    assert multiprocessing.active_children() == []


def test_a_script_without_a_guard_is_not_run_again(built_bundle, files, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            print("begins")
            import consilia
            from consilia.predict import decoders, prefetch
            decoders.FEW = 0
            prefetch._spare_cores = lambda device: 8
            files = [{str(files[0])!r}, {str(files[1])!r}] * 60
            found = consilia.load({str(built_bundle)!r}, device="cpu").predict(files)
            print(len(found))
        """),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("begins\n120\n", "", 0)


def test_processes_are_for_machines_with_cores_to_spare(monkeypatch):
    found = {}
    for cores in (1, 2, 4, 16):
        monkeypatch.setattr(prefetch, "_count_cores", lambda cores=cores: cores)
        found[cores] = spare_processes(torch.device("cuda")), spare_processes(torch.device("cpu"))
    assert found == {1: (0, 0), 2: (0, 0), 4: (3, 3), 16: (15, 15)}  # torch computes with one thread here
