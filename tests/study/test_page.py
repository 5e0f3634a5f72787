"""The report of a study: one page that says what its files say, and what the study does not have."""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import consilia
from consilia.audit.document import Finding
from consilia.audit.run import audit
from consilia.bundle.document import BundleDocument
from consilia.bundle.reading import read_bundle
from consilia.cli.app import run
from consilia.cli.show_report import follow_report
from consilia.config.record_files import write_trial
from consilia.data.folds import make_folds
from consilia.errors import StudyError
from consilia.metrics.diagrams import confusion
from consilia.metrics.estimates import Estimate
from consilia.report.study_page import render_study
from consilia.report.study_tables import with_interval
from consilia.study.combine import combine
from consilia.study.folder import hold_study
from consilia.study.image_scores import find_gaps, measure_cross_fitted, read_scores, read_subgroups, write_scores
from consilia.study.opened import OpenStudy
from consilia.study.page import describe_leaks, gather_facts, write_study_page
from finished_study import write_trial as write_trial_files
from html_pages import Page

MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def trained_page(trained) -> str:
    """The page that a study of one configuration has ended with."""
    return trained.folder.page.read_text()


@pytest.fixture(scope="module")
def several(finished_study, tmp_path_factory) -> OpenStudy:
    """A study of four trials with an ensemble of two, as its search would leave it; not to be changed."""
    studies = tmp_path_factory.mktemp("several")
    skipped = shutil.ignore_patterns("ensembles")
    shutil.copytree(finished_study.folder.root, studies / finished_study.plan.name, ignore=skipped)
    opened = OpenStudy.of(finished_study.plan, studies=studies, stores=finished_study.store.folder.parent)
    finished_study.folds.save(opened.folder.folds, finished_study.store)
    for record in finished_study.trials:
        write_trial(opened.folder.trial(record.number).record, record)
    combine(opened, opened.plan.ensemble)
    return opened


def open_copy(trained_copy) -> consilia.Study:
    return consilia.open_study(trained_copy.plan.name, studies=trained_copy.studies, stores=trained_copy.stores)


def test_the_page_is_well_formed_and_loads_and_runs_nothing(trained_page):
    page = Page(trained_page)
    assert page.all_of("script") == page.all_of("link") == page.all_of("iframe") == []
    assert not re.search(r"https?:|@import|\son[a-z]+=|javascript:", trained_page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    anchors = [each.removeprefix("#") for each in page.values("href", "xlink:href")]
    assert anchors
    assert set(anchors) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", trained_page)) <= set(ids)
    assert len(trained_page.encode()) < MOST_BYTES


def test_every_figure_is_named_and_described_and_every_picture_has_its_words(trained_page):
    page = Page(trained_page)
    assert len(page.all_of("svg")) == len(page.all_of("title")) - 1 == len(page.all_of("desc")) >= 4
    named = {name for each in page.all_of("svg") for name in str(each["aria-labelledby"]).split()}
    assert named <= set(page.values("id"))
    assert page.all_of("img")
    assert all(each["alt"] for each in page.all_of("img"))


def test_its_numbers_are_those_of_the_report_for_programs(trained, trained_page):
    page = Page(trained_page).words
    (ensemble,) = json.loads(trained.folder.report.read_text())["ensembles"].values()
    for row in ensemble["honesty"]["rows"]:
        for name in ("log_loss", "macro_auc", "accuracy", "brier"):
            assert with_interval(Estimate(**row["metrics"][name])).replace("\u00a0", " ") in page
    (test,) = [each for each in ensemble["evaluations"] if each["split"] == "test"]
    counts = [cell for row in test["confusion"] for cell in row]
    shown = re.findall(r'<td style="--share: [\d.]+">(\d+)<', trained_page)
    assert [int(each) for each in shown] == counts
    for point in ensemble["safety"]["operating_points"]:
        assert point["reason"] in page


def test_curves_are_of_the_images_that_the_evaluation_counts(trained):
    study = consilia.open_study(trained.plan.name, studies=trained.studies, stores=trained.stores)
    document = read_bundle(trained.bundle)
    scores = read_scores(study, document)
    np.testing.assert_array_equal(scores.rows, study.folds.test)
    (test,) = [each for each in document.evaluations if each.split == "test"]
    assert confusion(scores.shown.probabilities, scores.shown.labels) == test.confusion


def test_writing_it_again_gives_the_same_bytes_and_does_not_open_the_test(trained_copy, trained_page):
    before = trained_copy.folder.test_openings.read_text()
    page = open_copy(trained_copy).report()
    assert page == trained_copy.folder.page
    assert page.read_text() == trained_page
    assert trained_copy.folder.test_openings.read_text() == before


def test_without_pictures_it_holds_no_image_no_file_and_no_patient(trained_copy, tmp_path):
    study = open_copy(trained_copy)
    text = study.report(tmp_path / "out.html", pictures=False).read_text()
    assert "data:image" not in text
    named = {*study.store.index["file"].astype(str), *study.store.patients.tolist()}
    assert not [name for name in named if name in text]
    assert "Pictures were left out" in Page(text).words


def test_findings_of_an_audit_are_named_only_where_pictures_are_shown(trained_copy, tmp_path):
    study = open_copy(trained_copy)
    found = audit(study.store, study.plan.data, study.folds, shortcuts=False)
    finding = Finding(severity="warning", topic="patients", sentence="Look at patient 'p17'.", action="See p17.png.")
    place = tmp_path / "stores" / "audits" / f"{study.plan.data.name}-{study.store.digest[:16]}"
    found.model_copy(update={"findings": (finding,)}).write(place / "audit.json")
    moved = replace(study, stores=tmp_path / "stores")
    moved.__dict__["store"] = study.store
    assert gather_facts(moved, pictures=True).findings == (finding,)
    words = Page(write_study_page(moved, pictures=False, out=tmp_path / "page.html").read_text()).words
    assert "warning patients:" in words
    assert "p17" not in words


def test_groups_of_an_earlier_ensemble_are_not_shown_for_this_one(several):
    document = read_bundle(several.folder.bundle("votes"))
    assert read_subgroups(several, document) == ()
    assert read_subgroups(several, document.model_copy(update={"evaluations": ()})) is None


def test_pictures_are_of_the_worst_errors_and_of_the_least_certain(trained):
    study = consilia.open_study(trained.plan.name, studies=trained.studies, stores=trained.stores)
    measured = gather_facts(study, pictures=True).measured
    wrong, unsure = measured.cases.wrong, measured.cases.unsure
    assert len(wrong) == len(unsure) == 6
    assert all(case.label != case.truth for case in wrong)
    assert [case.of_truth for case in wrong] == sorted(case.of_truth for case in wrong)
    assert [case.confidence for case in unsure] == sorted(case.confidence for case in unsure)
    assert {case.file for case in wrong}.isdisjoint(case.file for case in unsure)
    probabilities, labels = measured.shown.probabilities, measured.shown.labels
    is_wrong = probabilities.argmax(axis=1) != labels
    assert wrong[0].of_truth == pytest.approx(probabilities[np.arange(len(labels)), labels][is_wrong].min())


def test_what_people_have_named_is_escaped(trained, tmp_path):
    study = consilia.open_study(trained.plan.name, studies=trained.studies, stores=trained.stores)
    facts = gather_facts(study, pictures=True)
    name = "<b>$nodule$</b>"
    text = facts.measured.document.model_dump_json().replace("nodule", name)
    classes = tuple(each.replace("nodule", name) for each in facts.measured.shown.classes)
    wrong = [replace(case, file='<script>x</script>".png', label=name) for case in facts.measured.cases.wrong]
    measured = replace(
        facts.measured,
        document=BundleDocument.model_validate_json(text),
        shown=replace(facts.measured.shown, classes=classes),
        cases=replace(facts.measured.cases, wrong=tuple(wrong)),
    )
    data = facts.plan.data.model_copy(update={"title": "<i>title</i>", "licence": "`<u>`"})
    page = render_study(replace(facts, measured=measured, plan=facts.plan.model_copy(update={"data": data})))
    parsed = Page(page)
    assert parsed.all_of("script") == parsed.all_of("i") == parsed.all_of("u") == []
    assert page.count(name) == 0
    assert "&lt;b&gt;$nodule$&lt;/b&gt;" in page
    assert "<i>title</i>" in parsed.words
    assert name in " ".join(text for text in parsed.text if "nodule" in text)


def test_several_members_are_compared_and_each_is_named(several, tmp_path):
    text = write_study_page(several, pictures=False, out=tmp_path / "page.html").read_text()
    page = Page(text)
    assert {"sizes-title", "scores-title"} <= set(page.values("id"))
    document = read_bundle(several.folder.bundle("votes"))
    for member in document.members:
        assert f"trial {member.trial}" in page.words
    assert document.selection.reason in page.words
    assert "takes a dozen finished trials" in page.words


def test_a_study_without_a_locked_test_says_so_and_shows_cross_fitted_curves(finished_study, tmp_path):
    store, data = finished_study.store, finished_study.plan.data.model_copy(update={"test": "none"})
    plan = finished_study.plan.model_copy(update={"data": data})
    opened = OpenStudy.of(plan, studies=tmp_path, stores=store.folder.parent)
    folds = make_folds(store, k=3, seed=0, test="none", test_fraction=0.25)
    folds.save(opened.folder.folds, store)
    opened.folder.plan.touch()
    for number in range(2):
        record = write_trial_files(number, 1.5, opened.folder, store, folds)
        write_trial(opened.folder.trial(number).record, record)
    combine(opened, plan.ensemble)
    words = Page(write_study_page(opened).read_text()).words
    assert "There is no locked test" in words
    assert "every number here is an internal estimate" in words
    assert "tiny, cross-fitted" in words
    assert "heat maps are those of the shipped one" in words


def test_a_study_without_an_ensemble_shows_its_search_only(trained_copy):
    shutil.rmtree(trained_copy.bundle)
    trained_copy.folder.search_end.unlink()
    page = Page(open_copy(trained_copy).report().read_text())
    anchors = {each["id"] for each in page.all_of("h2")}
    assert anchors == {"asked", "result", "search", "time", "again"}
    assert "There is no ensemble yet. The best of the trials so far, number 0" in page.words
    assert "the search is not over" in page.words


def test_a_study_that_has_only_begun_says_that_there_is_no_result(trained_copy):
    folder = trained_copy.folder
    for path in (trained_copy.bundle, folder.trials, folder.root / "predictions"):
        shutil.rmtree(path)
    for path in (folder.folds, folder.report, folder.ledger, folder.search_end):
        path.unlink()
    with hold_study(folder):
        page = Page(open_copy(trained_copy).report(refresh=7).read_text())
    assert "There is no result yet: no trial has finished." in page.words
    assert "a search is running" in page.words
    assert {"http-equiv": "refresh", "content": "7"} in page.all_of("meta")


def test_a_finished_study_is_not_loaded_again_by_the_browser(trained_page):
    assert "refresh" not in trained_page


def test_a_page_that_cannot_be_written_takes_nothing_from_the_result(trained_copy, silent_view):
    trained_copy.folder.page.unlink()
    trained_copy.folder.page.mkdir()
    (trained_copy.folder.page / "in the way").touch()
    done = consilia.search(
        trained_copy.plan, studies=trained_copy.studies, stores=trained_copy.stores, view=silent_view
    )
    assert done.result().document.members
    (note,) = [note for note in silent_view.notes if "report.html" in note]
    assert "`consilia report tiny-train` tries again" in note


def test_predictions_are_read_as_they_were_written_and_never_for_another_ensemble(several):
    document = read_bundle(several.folder.bundle("votes"))
    scores = read_scores(several, document)
    write_scores(several, document, scores)
    again = read_scores(several, document)
    np.testing.assert_array_equal(again.shown.members, scores.shown.members)
    np.testing.assert_array_equal(again.shown.probabilities, scores.shown.probabilities)
    provenance = document.provenance.model_copy(update={"created": "later"})
    assert read_scores(several, document.model_copy(update={"provenance": provenance})) is None


def test_damaged_predictions_are_named_with_what_to_do(trained_copy):
    path = trained_copy.folder.predictions(trained_copy.plan.ensemble.name)
    path.write_bytes(b"no table")
    with pytest.raises(StudyError, match=r"\.parquet is damaged.*Delete it"):
        open_copy(trained_copy).report()


def test_missing_predictions_are_an_error_that_says_how_to_write_them(trained_copy):
    trained_copy.folder.predictions(trained_copy.plan.ensemble.name).unlink()
    study = open_copy(trained_copy)
    with pytest.raises(StudyError, match="consilia ensemble tiny-train --recipe best_single"):
        study.report()
    study.build()
    assert study.report(pictures=False).is_file()


def test_groups_are_of_columns_that_say_something(several):
    document, store = read_bundle(several.folder.bundle("votes")), several.store
    columns = {
        "meta_site": np.where(np.arange(len(store)) % 2, "A", "B"),
        "meta_finding": np.where(store.labels, "yes", "no"),  # the label by another name
        "meta_name": [f"n{row}" for row in range(len(store))],  # too many groups
    }
    other = replace(several)
    other.__dict__["store"] = replace(store, index=store.index.assign(**columns))
    assert find_gaps(other, read_scores(several, document)) == ()  # 10 patients are too few for two groups of 30
    scores = measure_cross_fitted(several, document)
    alone = replace(scores.shown, patients=np.arange(len(scores.rows)).astype(str))  # 30 in each class, too
    for shown in (scores.shown, alone):
        (found,) = find_gaps(other, replace(scores, shown=shown))
        assert found.column == "site"
        assert [(group.images, group.patients) for group in found.groups] == [(30, 30), (30, 30)]


def test_the_command_says_where_the_page_lies(trained_copy, capsys):
    places = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    trained_copy.folder.page.unlink()
    assert run(["report", trained_copy.plan.name, "--no-pictures", *places]) == 0
    assert capsys.readouterr().out == f"report    {trained_copy.folder.page}\n"
    assert "data:image" not in trained_copy.folder.page.read_text()
    assert run(["report", "nobody", *places]) == 2
    assert "There is no study 'nobody'" in capsys.readouterr().err


def test_following_a_study_that_nobody_works_in_writes_its_last_page(trained_copy, trained_page, tmp_path):
    places = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    out = tmp_path / "page.html"
    assert run(["report", trained_copy.plan.name, "--watch", "--out", str(out), *places]) == 0
    assert out.read_text() == trained_page


def test_a_running_search_is_followed_until_nobody_works_in_it(trained_copy, tmp_path):
    study, out = open_copy(trained_copy), tmp_path / "page.html"
    follow = partial(follow_report, study, out, pictures=False, every=0.1, show=False)
    with ThreadPoolExecutor(1) as threads:
        with hold_study(trained_copy.folder):
            following = threads.submit(follow)
            while not out.exists() and not following.done():
                time.sleep(0.05)
            assert 'http-equiv="refresh"' in out.read_text()
        assert following.result() == out
    assert 'http-equiv="refresh"' not in out.read_text()


def test_the_counts_are_those_of_the_folds(trained):
    study = consilia.open_study(trained.plan.name, studies=trained.studies, stores=trained.stores)
    table = pd.read_parquet(trained.folder.folds)
    *_, total = gather_facts(study, pictures=False).counts
    pool = table[table["split"] == "train"]
    assert total[:2] == ["all", f"{len(pool)} ({pool['patient_id'].nunique()})"]
    assert Path(trained.folder.page).is_file()


def test_nothing_is_promised_of_patients_that_the_data_do_not_name(trained):
    study = consilia.open_study(trained.plan.name, studies=trained.studies, stores=trained.stores)
    table = pd.read_parquet(trained.folder.folds)
    named, unnamed = (" ".join(describe_leaks(group, study.folds, table)) for group in ("patient", "none"))
    assert "No patient and no picture lies both" in named
    assert "do not name patients" not in named
    assert "No patient" not in unnamed
    assert "images of one may lie in several folds, and on both sides of the test" in unnamed


def test_importance_names_what_the_score_depends_on_and_is_empty_while_too_few_trials_have_finished(trained_copy):
    study = open_copy(trained_copy)
    assert study.importance().empty
    (first,) = study.records().values()
    for number in range(1, 16):
        options = first.hyperparameters.model_copy(update={"lr": 5e-4 * 1.2**number, "mixup": number % 3 / 10})
        record = replace(first, number=number, hyperparameters=options, objective=number / 10)
        write_trial(study.folder.trial(number).record, record)
    shares = study.importance()
    assert shares.index[0] == "lr"
    assert shares.sum() == pytest.approx(1)
