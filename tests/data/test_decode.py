"""Decoding in processes: the same blocks as in one, whatever an image does to its process."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broken_readers import break_once, fail, read_or_break
from consilia.config.reading import Reading
from consilia.data.decode.block import Decoded, decode_block
from consilia.data.decode.process import DecodeProcess, is_plain
from consilia.data.decode.workers import DecodeWorkers, LocalWorkers, block_length, decode_blocks, decode_in
from consilia.data.sources.card import list_blocks, list_images
from consilia.data.sources.listing import ImageTable
from consilia.errors import RunError
from data_tables import balanced, card_of, picture, write_table

READING = Reading(size=8, channels=1)
Files = tuple[tuple[Path, None], ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images; not to be changed."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(10):
        Image.fromarray(picture(number)).save(folder / f"{number:03d}.png")
    for name in ("kill.png", "hang.png", "exit.png"):
        (folder / name).write_bytes((folder / "000.png").read_bytes())
    (folder / "empty.png").write_bytes(b"")
    return folder


def block(folder: Path, *names: object) -> Files:
    return tuple((folder / (f"{name:03d}.png" if isinstance(name, int) else f"{name}.png"), None) for name in names)


def decode(table: ImageTable, *, workers: DecodeWorkers | None, start: int = 0) -> list[Decoded]:
    blocks = list_blocks(table, rows=block_length(READING), start=start)
    return list(decode_blocks(blocks, READING, workers=workers))


def same(first: Decoded, second: Decoded) -> bool:
    rest = ("facts", "failures", "n_listed")
    return np.array_equal(first.pixels, second.pixels) and all(getattr(first, f) == getattr(second, f) for f in rest)


class TestBlocks:
    def test_workers_yield_what_one_process_does(self, tmp_path, monkeypatch):
        monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 5)
        folder = write_table(tmp_path / "made", balanced())
        (folder / "007.png").write_bytes(b"")
        table = list_images(card_of(folder))
        alone = decode(table, workers=None)
        with LocalWorkers(3) as workers:
            together = decode(table, workers=workers)
        assert [part.n_listed for part in alone] == [5, 5, 5, 5, 4]
        assert all(same(a, b) for a, b in zip(alone, together, strict=True))

    @pytest.mark.parametrize("start", [0, 5, 20, 24])
    def test_decoding_starts_behind_what_is_done(self, tmp_path, monkeypatch, start):
        monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 5)
        table = list_images(card_of(write_table(tmp_path / "made", balanced())))
        whole = decode(table, workers=None)
        rest = decode(table, workers=None, start=start)
        assert all(same(a, b) for a, b in zip(whole[(start + 4) // 5 :], rest, strict=True))

    def test_moments_of_extreme_images_are_exact(self):
        reading = Reading(size=2048, channels=1)
        for value in (0, 255):
            (facts,) = decode_block(np.full((1, 2048, 2048), value, np.uint8), reading).facts
            assert (facts.mean, facts.mean_square) == (value / 255, value / 255)


class TestDeaths:
    @pytest.mark.parametrize("position", [0, 2, 4])
    def test_a_decoder_that_crashes_costs_its_image_alone(self, folder, position):
        names: list[object] = [0, 1, 2, 3]
        names.insert(position, "kill")
        process = DecodeProcess()
        decoded = decode_in(process, block(folder, *names), READING, read=read_or_break)
        process.close()
        ((at, reason),) = decoded.failures
        assert at == position
        assert "kill.png: its decoder crashed twice" in reason
        assert "SIGSEGV" in reason
        assert np.array_equal(decoded.pixels, decode_block(block(folder, 0, 1, 2, 3), READING).pixels)
        assert [each.position for each in decoded.facts] == [i for i in range(5) if i != position]

    def test_an_image_that_takes_too_long_is_given_up(self, folder):
        process = DecodeProcess(seconds=0.5)
        decoded = decode_in(process, block(folder, 0, "hang", 1), READING, read=read_or_break)
        process.close()
        ((at, reason),) = decoded.failures
        assert at == 1
        assert "hang.png: decoding it was ended twice after 0.5 s" in reason
        assert len(decoded.facts) == 2

    def test_several_bad_images_of_one_block_are_each_named(self, folder):
        process = DecodeProcess()
        decoded = decode_in(process, block(folder, "kill", "exit", 0, "empty", "exit"), READING, read=read_or_break)
        process.close()
        assert [at for at, _ in decoded.failures] == [0, 1, 3, 4]
        assert ["SIGSEGV" in r or "exit code 3" in r or "0 bytes" in r for _, r in decoded.failures] == [True] * 4
        assert [each.position for each in decoded.facts] == [2]

    def test_an_image_that_is_read_the_second_time_is_kept(self, folder, tmp_path):
        process = DecodeProcess()
        decoded = decode_in(process, block(folder, 0, 1, 2), READING, read=partial(break_once, tmp_path / "log"))
        process.close()
        assert same(decoded, decode_block(block(folder, 0, 1, 2), READING))

    def test_a_fault_of_the_reader_reaches_the_caller(self, folder):
        with LocalWorkers(1, read=fail) as workers, pytest.raises(OSError, match="a fault of the reader"):
            workers.submit(block(folder, 0), READING).result()

    def test_a_process_that_dies_while_it_decodes_no_image_is_an_error_that_says_what_to_do(self, folder):
        process = DecodeProcess()
        decode_in(process, block(folder, 0), READING)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RunError, match=r"decoded no image \(signal SIGKILL\).*memory ran out"):
            decode_in(process, block(folder, 1), READING)
        assert len(decode_in(process, block(folder, 1), READING).facts) == 1
        process.close()

    def test_leaving_the_workers_ends_what_still_runs(self, folder):
        with LocalWorkers(1, read=read_or_break) as workers:
            pending = workers.submit(block(folder, "hang"), READING)
        with pytest.raises(RunError, match="ended"):
            pending.result()


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (b"\xff\xd8\xff" + bytes(125) + b"DICM", False),
        (b"\x89PNG\r\n\x1a\n....", True),
        (b"\xff\xd8\xff\xe0", True),
        (b"", True),
        (b"II*\x00", False),
        (b"hello", False),
    ],
)
def test_only_png_jpeg_and_nothing_at_all_are_plain(tmp_path, content, plain):
    (tmp_path / "file").write_bytes(content)
    assert is_plain(tmp_path / "file") == plain
    assert is_plain(tmp_path / "missing")
