"""Thousands of damaged and forged bundles: each is refused as such, or predicts what the untouched one predicts.

A bundle's digests tell damage, not authorship: whoever knows the format can sign what they change. So two promises
are tested. Whatever happens to the files without a new signature is refused. Whatever is signed again ends in
BundleError or in a predictor, never in another error, in running code, in gigabytes or in a hang.

`make test` loads some hundred of them whole and reads the documents of a thousand; `make test-all` loads them all.
"""

import copy
import json
import os
import pickle
import random
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consilia.bundle.reading import read_bundle
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.errors import BundleError
from consilia.files import sha256_of_file, sha256_of_json
from consilia.predict.loading import load_predictor

DOCUMENT = "ensemble.json"
CASES, PARTS, DOCUMENTS = 5040, 36, 1000
MORE = pytest.mark.slow("the claim of the cases before on thousands more, which takes minutes")
SPARE_BYTES = 3 * 2**30  # of address space that loading may take beyond what the process has
WILD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 10**9, 10**30, 1e308, -0.5, "", "x" * 5000, "\ud800", "a\0b"),
    *("../../etc/passwd", "/etc/passwd", "members/..", "C:\\x", "members", ".", "golden.npz", DOCUMENT),
    *([], {}, [[]], [None], [0] * 50, {"": 0}, {"kind": "file"}, {"kind": "none"}),
    *("temperature", "test_resnet", "__import__('os')"),
)


class Payload:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self._mark),))


@pytest.fixture(scope="module")
def originals(finished_study) -> tuple[Path, Path]:
    """Two bundles of one member each, whose architectures differ."""
    recipes = (EnsembleRecipe(name=f"fuzz-{number}", selection=BestSingle()) for number in (0, 1))
    first, second = (
        finished_study.build(recipe, trials=(finished_study.trials[number],)) for number, recipe in enumerate(recipes)
    )
    return first, second


@pytest.fixture(autouse=True)
def little_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=MORE) for part in range(2, PARTS))])
def test_a_mutated_bundle_is_refused_or_harmless(originals: tuple[Path, Path], tmp_path: Path, part: int):
    original = originals[part % 2]
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 36), dtype=np.uint8)
    expected = load_predictor(original, device="cpu").predict_proba(images)
    refused = 0
    for number in range(part, CASES, PARTS):
        chance = random.Random(number)
        bundle = tmp_path / "bundle"
        shutil.copytree(original, bundle, symlinks=True)
        mark = tmp_path / "mark"
        is_signed = chance.random() < 0.7
        what = chance.choice(SIGNED if is_signed else UNSIGNED)(bundle, chance, mark)
        if is_signed:
            sign(bundle)
        try:
            found = load_predictor(bundle, device="cpu")
        except BundleError:
            refused += 1
        except BaseException as error:
            pytest.fail(f"case {number}, {what}: {type(error).__name__}: {error}")
        else:
            assert is_signed or what.endswith("unchanged"), f"case {number}, {what} was not noticed"
            if what.startswith(("forged tensors", "arrays of")):
                found.predict(images)  # with sets, thresholds and gate
                np.testing.assert_allclose(found.predict_proba(images), expected, atol=1e-2, err_msg=f"case {number}")
        assert not mark.exists(), f"case {number}, {what}: code of the bundle was run"
        shutil.rmtree(bundle)
    assert refused > CASES / PARTS / 2


def test_a_mutated_document_is_refused_or_read(originals: tuple[Path, Path], tmp_path: Path):
    """Its networks are not built here: what is signed must be refused before, or be a document."""
    refused = 0
    for original in originals:
        bundle = Path(shutil.copytree(original, tmp_path / original.name))
        whole = (bundle / DOCUMENT).read_bytes()
        for number in range(DOCUMENTS // 2):
            (bundle / DOCUMENT).write_bytes(whole)
            what = change_document(bundle, random.Random(number), tmp_path / "mark")
            sign(bundle)
            try:
                read_bundle(bundle)
            except BundleError:
                refused += 1
            except BaseException as error:
                pytest.fail(f"case {number}, {what}: {type(error).__name__}: {error}")
    assert refused > DOCUMENTS / 2


def sign(bundle: Path) -> None:
    """Let hashes and digest fit again, as far as the document still has them."""
    path = bundle / DOCUMENT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, record in content["files"].items():
            file = bundle / name
            if file.is_file() and isinstance(record, dict):
                record.update(bytes=file.stat().st_size, sha256=sha256_of_file(file))
        content.pop("digest", None)
        text = json.dumps({**content, "digest": sha256_of_json(content)})
        path.write_text(text, encoding="utf-8")
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        return  # the mutation has made it no document any more


# Without a new signature


def files_of(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def flip(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = chance.choice(files_of(bundle))
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    before = path.read_bytes()
    path.write_bytes(bytes(content))
    if path.name == DOCUMENT:  # one kind of white space for another changes nothing that is said
        try:
            same = json.loads(content) == json.loads(before)
        except ValueError:
            same = False
        if same:
            return f"a bit of {path.name}, unchanged"
    return f"a bit of {path.name}"


def cut(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = chance.choice(files_of(bundle))
    os.truncate(path, chance.randrange(path.stat().st_size - 1))
    return f"{path.name} cut"


def extend(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = chance.choice([path for path in files_of(bundle) if path.name != DOCUMENT])
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randrange(1, 5000)))
    return f"{path.name} extended"


def swap(bundle: Path, chance: random.Random, mark: Path) -> str:
    first, second = chance.sample(files_of(bundle), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return f"{first.name} and {second.name} swapped"


def lose(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = chance.choice(files_of(bundle))
    path.unlink()
    return f"{path.name} missing"


def link(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = chance.choice([path for path in files_of(bundle) if path.name != DOCUMENT])
    away = bundle.parent / "away"
    shutil.copyfile(path, away)
    path.unlink()
    path.symlink_to(away)
    return f"{path.name} as a link"


# Signed again


def change_document(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = bundle / DOCUMENT
    content = json.loads(path.read_text())
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        holder, key = chance.choice(places(content))
        kind = chance.choice(("wild", "wild", "wild", "delete", "swap"))
        if kind == "wild":
            holder[key] = copy.deepcopy(chance.choice(WILD))
        elif kind == "delete":
            del holder[key]
        else:
            other, name = chance.choice(places(content))
            holder[key], other[name] = other[name], holder[key]
        done.append(f"{kind} {key}")
        try:
            path.write_text(json.dumps(content), encoding="utf-8")
        except (ValueError, RecursionError):
            break  # it holds itself by now
    return f"document: {', '.join(done)}"


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a JSON document."""
    found: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        holder = waiting.pop()
        pairs = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        found += [(holder, key) for key, _ in pairs]
        waiting += [value for _, value in pairs if isinstance(value, (dict, list))]
    return found


def change_header(bundle: Path, chance: random.Random, mark: Path) -> str:
    """Change what a safetensors file says of its tensors."""
    path = chance.choice(sorted((bundle / "members").iterdir()))
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = chance.choice([key for key in header if key != "__metadata__"])
    kind = chance.randrange(7)
    if kind == 0:
        header[name]["shape"] = [2**40, 2**20]
    elif kind == 1:
        header[name]["dtype"] = chance.choice(("F64", "I64", "BF16", "BOOL", "F8_E4M3", "X"))
    elif kind == 2:
        header[name]["data_offsets"] = [0, len(data) + 8]
    elif kind == 3:
        header["more" + name] = header.pop(name)
    elif kind == 4:
        del header[name]
    elif kind == 5:
        header[name]["shape"] = [*header[name]["shape"][::-1], 1]
    encoded = json.dumps(header).encode()
    claimed = 2**62 if kind == 6 else len(encoded)
    path.write_bytes(struct.pack("<Q", claimed) + encoded + data)
    return f"header {kind} of {path.name}"


def change_tensors(bundle: Path, chance: random.Random, mark: Path) -> str:
    """Change many weights: the golden outputs must notice it where it changes predictions."""
    path = chance.choice(sorted((bundle / "members").iterdir()))
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    weights = np.frombuffer(content, dtype=np.float32, offset=8 + length, count=(len(content) - 8 - length) // 4).copy()
    with np.errstate(all="ignore"):
        weights *= np.float32(chance.choice((0.0, -1.0, 3.0, np.nan, np.inf)))
    content[8 + length : 8 + length + weights.nbytes] = weights.tobytes()
    path.write_bytes(bytes(content))
    return f"forged tensors of {path.name}"


def pickle_array(bundle: Path, chance: random.Random, mark: Path) -> str:
    """Put an array of objects, which would run code, where numbers are expected."""
    array = np.array([Payload(mark)], dtype=object)
    if chance.random() < 0.5:
        np.save(bundle / "seen.npy", array, allow_pickle=True)
        return "objects in seen.npy"
    np.savez(bundle / "golden.npz", images=array, probabilities=array)
    return "objects in golden.npz"


def pickle_file(bundle: Path, chance: random.Random, mark: Path) -> str:
    path = chance.choice([path for path in files_of(bundle) if path.name != DOCUMENT])
    path.write_bytes(pickle.dumps(Payload(mark)))
    return f"a pickle as {path.name}" if path.name != "card.md" else "a pickle as the card, which is text, unchanged"


def change_only_sets(bundle: Path, chance: random.Random, mark: Path) -> str:
    return change_one_array(bundle / "sets.npz", chance)


def change_only_gate(bundle: Path, chance: random.Random, mark: Path) -> str:
    return change_one_array(bundle / "unusual.npz", chance)


def change_array(bundle: Path, chance: random.Random, mark: Path) -> str:
    """Put arrays of other shapes and types, or one that claims to be huge, where others are expected."""
    shape = chance.choice(((), (0,), (3,), (1, 1), (4, 32, 32, 1), (4, 2)))
    array = np.zeros(shape, dtype=chance.choice((np.uint8, np.float64, np.complex128, np.uint64, "U3")))
    kind = chance.randrange(4)
    if kind == 0:
        np.save(bundle / "seen.npy", array)
    elif kind == 1:
        np.savez(bundle / "golden.npz", images=array, probabilities=array)
    else:
        np.save(bundle / "seen.npy", np.zeros(4, dtype=np.uint64))
        huge = (bundle / "seen.npy").read_bytes().replace(b"(4,), }            ", b"(99999999999,), }  ")
        (bundle / "seen.npy").write_bytes(huge)
        if kind == 3:
            with zipfile.ZipFile(bundle / "golden.npz", "w") as archive:
                archive.writestr("images.npy", huge)
                archive.writestr("probabilities.npy", huge)
    return f"array {kind}"


def change_one_array(path: Path, chance: random.Random) -> str:
    """Change one array of the prediction sets' calibration, or of the gate."""
    if not path.exists():
        return "nothing, unchanged"
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    name = chance.choice(sorted(arrays))
    change = chance.randrange(5)
    if change == 0:
        del arrays[name]
    elif change == 1:
        with np.errstate(over="ignore"):
            arrays[name] = arrays[name].astype(np.float16)
    elif change == 2:
        arrays[name] = np.zeros_like(arrays[name]) - 1
    elif change == 3 and arrays[name].dtype.kind == "f":
        arrays[name] = np.full_like(arrays[name], chance.choice((0, 1e-45, 3e38)))
    else:
        arrays[name] = np.full(np.shape(arrays[name]), 2**40 if arrays[name].dtype == np.int64 else np.nan)
    np.savez(path, **arrays)
    return f"arrays of {path.name}"


def bomb(bundle: Path, chance: random.Random, mark: Path) -> str:
    """Golden outputs that unpack to gigabytes."""
    with zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(80 * 2**20))
    return "golden.npz that unpacks to 80 MiB"


def add_files(bundle: Path, chance: random.Random, mark: Path) -> str:
    """Files that the document does not list are not read, whatever they are."""
    for name in ("extra.py", "conftest.py", "members/more.safetensors", "sitecustomize.py"):
        (bundle / name).write_text(f"import os; os.mkdir({str(mark)!r})")
    return "more files, unchanged"


UNSIGNED = (flip, flip, flip, cut, extend, swap, lose, link, add_files)
SIGNED = (
    *[change_document] * 10,
    change_header,
    change_header,
    change_tensors,
    pickle_array,
    pickle_file,
    change_array,
    change_only_sets,
    change_only_sets,
    change_only_gate,
    change_only_gate,
    bomb,
    add_files,
)
