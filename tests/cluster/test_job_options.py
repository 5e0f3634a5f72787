"""What a job is given: its variables, its folder, and what is refused before anything is sent."""

import os
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import consilia
from consilia.cli.app import run
from consilia.cluster.options import parse_env
from consilia.cluster.packing import STUDY_FILE, pack
from consilia.cluster.paths import describe_missing, with_shipped_paths

STUDY = "name: small\ndata: {card: phantoms, path: data/phantoms, size: 32}\nspaces: [tiny]\n"


def plan_with(path: str | None, *, weights: str = "none", warm_start: tuple[str, ...] = (), cluster: str | None = None):
    return {
        "name": "small",
        "data": {"path": path},
        "training": {"weights": weights, "epochs": 3},
        "search": {"warm_start": list(warm_start), "trials": 9},
        "cluster": {"weights": cluster},
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "phantoms").mkdir(parents=True)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def test_a_variable_s_value_may_hold_anything_and_is_shown_nowhere():
    variables = parse_env(["A=1", "B=x=y", "C="])
    assert variables == {"A": "1", "B": "x=y", "C": ""}
    assert "x=y" not in repr(consilia.JobOptions(env=variables))


@pytest.mark.parametrize("text", ["hush", "=hush", "1A=hush", "A B=hush"])
def test_a_variable_without_a_name_is_refused_without_its_value(here, text, capsys):
    assert run(["submit", "study.yaml", "--address", "http://head:8265", "--env", "A=1", "--env", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--env" in line
    assert "number 2 of 2" in line
    assert "hush" not in line


@pytest.mark.parametrize("option", ["--entrypoint-cpus", "--entrypoint-memory", "--retries"])
def test_a_negative_number_is_refused_with_its_option(here, option, capsys):
    assert run(["submit", "study.yaml", "--address", "http://head:8265", option, "-1"]) == 2
    assert option in capsys.readouterr().err.splitlines()[0]


def test_python_refuses_negative_numbers_too():
    with pytest.raises(consilia.UserError, match="retries of a job must be at least 0, but is -1"):
        consilia.JobOptions(retries=-1)
    with pytest.raises(consilia.UserError, match="cpus"):
        consilia.JobOptions(cpus=float("nan"))


@pytest.mark.parametrize(("name", "what"), [("nowhere", "does not exist"), ("study.yaml", "is no folder")])
def test_a_working_folder_that_is_none_is_refused_in_one_line(here, name, what, capsys):
    assert run(["submit", "study.yaml", "--address", "http://head:8265", "--working-dir", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} {what}" in line
    assert "--working-dir" in line


def test_paths_in_the_working_folder_become_relative_to_it_and_others_stay(here):
    for name in ("data/weights", "data/studies/older"):
        (here / name).mkdir(parents=True)
    plan = plan_with(
        str(here / "data/phantoms"),
        weights=str(here / "data/weights"),
        warm_start=("named", "/shared/studies/old", f"{here}/x/../data/studies/older"),
        cluster="/shared/weights",
    )
    (here / "x").mkdir()
    shipped = with_shipped_paths(plan, Path("data"))
    assert shipped == plan_with(
        "./phantoms",
        weights="./weights",
        warm_start=("named", "/shared/studies/old", "./studies/older"),
        cluster="/shared/weights",
    )
    assert plan["data"]["path"] == str(here / "data/phantoms")


def test_a_shipped_plan_is_read_from_the_folder_that_the_cluster_unpacks(here):
    from consilia.study.plan import plan_to_yaml

    (here / "data" / "weights").mkdir()
    settings = {"training.weights": "data/weights"}
    plan = consilia.read_plan("study.yaml", settings=settings, networks=False)
    unpacked = here / "unpacked"
    unpacked.mkdir()
    (unpacked / STUDY_FILE).write_text(yaml.safe_dump(with_shipped_paths(plan_to_yaml(plan), Path("data"))))
    read = consilia.read_plan(unpacked / STUDY_FILE, networks=False)
    assert Path(read.data.path) == unpacked / "phantoms"
    assert Path(read.training.weights) == unpacked / "weights"
    assert read.digest == plan.digest


def test_a_working_folder_that_holds_nothing_of_the_study_is_refused(here):
    (here / "other").mkdir()
    with pytest.raises(consilia.UserError, match=r"must hold one of the study's paths, but they are: data.path /far"):
        with_shipped_paths(plan_with("/far/images"), here / "other")
    with pytest.raises(consilia.UserError, match="it has none"):
        with_shipped_paths(plan_with(None), here / "other")
    with pytest.raises(consilia.UserError, match=r"gone lies in --working-dir .*, but does not exist"):
        with_shipped_paths(plan_with(str(here / "other" / "gone")), here / "other")


def test_the_archive_holds_the_study_and_the_folder_and_is_the_same_each_time(here):
    images = here / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"a")
    (images / STUDY_FILE).write_text("not the job's")
    (images / ".git").mkdir()
    (images / ".git" / "HEAD").write_text("hidden")
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "b.png").write_bytes(b"b")
    (images / "linked").symlink_to(here / "elsewhere")
    for name in ("one.zip", "two.zip"):
        pack(here / name, "name: small", images)
    with ZipFile(here / "one.zip") as archive:
        assert archive.namelist() == [STUDY_FILE, "a.png", "linked/b.png"]
        assert archive.read(STUDY_FILE) == b"name: small"
    assert (here / "one.zip").read_bytes() == (here / "two.zip").read_bytes()


def test_a_folder_above_the_limit_is_refused_with_its_size(here):
    with (here / "data" / "large.npz").open("wb") as file:
        os.truncate(file.fileno(), 3 * 2**20)
    with pytest.raises(consilia.UserError, match="holds 3 MiB, but a job can carry less than 2 MiB") as refused:
        pack(here / "job.zip", "name: small", here / "data", limit=2 * 2**20)
    assert "disk that all nodes share" in str(refused.value)
    assert not (here / "job.zip").exists()
    pack(here / "job.zip", "name: small", here / "data", limit=4 * 2**20)


def test_the_limit_is_that_of_ray_s_dashboard():
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    from consilia.cluster.packing import LIMIT_BYTES

    assert LIMIT_BYTES == DASHBOARD_CLIENT_MAX_SIZE


def test_what_a_node_does_not_have_is_named_with_its_key_and_the_node(here):
    assert describe_missing(plan_with("data/phantoms"), here, node="n1") == ""
    assert describe_missing(plan_with(None, weights="imagenet", warm_start=("named",)), here, node="n1") == ""
    line = describe_missing(plan_with("/far/images", weights="/far/weights"), here, node="n1")
    assert line.startswith("n1, ")
    assert "/far/images (data.path) and /far/weights (training.weights)" in line
    assert "--working-dir" in line
    assert "--working-dir" not in describe_missing(plan_with(None, cluster="/far/weights"), here, node="n1")
