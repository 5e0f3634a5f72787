"""A final name never holds a partial file."""

import hashlib
import json
import math
import stat

import pytest

from consilia.files import sha256_of_file, sha256_of_json, write_atomically, write_json, write_text


def test_a_file_is_written_with_its_folders_and_can_be_read_by_all(tmp_path):
    path = tmp_path / "deep" / "below" / "note.txt"
    write_text(path, "größer\n")
    assert path.read_text(encoding="utf-8") == "größer\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, exists, error):
    path = tmp_path / "result.json"
    if exists:
        path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert [each.name for each in tmp_path.iterdir()] == (["result.json"] if exists else [])
    assert not exists or path.read_text() == "old"


def test_the_writer_works_beside_the_file_under_another_name_with_its_suffix(tmp_path):
    path = tmp_path / "weights.safetensors"
    seen = []

    def write(temporary):
        seen.append((temporary.parent, temporary.suffix, temporary.name != path.name, path.exists()))
        temporary.write_bytes(b"new")

    write_atomically(path, write)
    assert seen == [(tmp_path, ".safetensors", True, False)]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_that_other_readers_refuse_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back_equal(tmp_path):
    value = {"name": "größer", "numbers": [1, 2.5, None, True], "nested": {"a": {}}}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_value_is_that_of_its_content_and_not_of_its_order():
    assert sha256_of_json({"a": 1, "b": [1, 2]}) == sha256_of_json({"b": [1, 2], "a": 1})
    assert sha256_of_json({"a": [1, 2]}) != sha256_of_json({"a": [2, 1]})
