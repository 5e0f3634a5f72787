"""Folds are stratified and repeatable, and neither a patient nor a copy of an image ever crosses them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from consilia.data.folds import FoldPlan, check_no_leak, divide_again, load_folds, make_folds
from consilia.errors import DataError
from data_tables import balanced, picture, row


def split(store, *, k=3, seed=0, test="auto", test_fraction=0.2, on_leak="error") -> FoldPlan:
    return make_folds(store, k=k, seed=seed, test=test, test_fraction=test_fraction, on_leak=on_leak)


def folds_of(store, folds: FoldPlan, column: str) -> pd.Series:
    """In how many folds each value of an index column appears."""
    return pd.Series(folds.fold).groupby(store.index[column]).nunique()


def mixed(patients=60, seed=0):
    """Patients with 1 ... 4 images of one of three classes that are rare to different degrees."""
    generator = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        label = "abbccc"[patient % 6]
        rows += [row(len(rows) + i, label, f"{patient:03d}") for i in range(generator.integers(1, 5))]
    return rows


class TestPartition:
    def test_every_image_is_in_one_fold_or_in_the_test_split(self, make_store):
        store = make_store(mixed())
        folds = split(store)
        parts = [folds.test, *(folds.validation(fold) for fold in range(3))]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(store)))
        assert np.array_equal(np.sort(np.concatenate(parts[1:])), folds.pool)

    def test_training_and_validation_rows_make_up_the_pool(self, make_store):
        folds = split(make_store(mixed()))
        for fold in range(3):
            together = np.union1d(folds.training(fold), folds.validation(fold))
            assert np.array_equal(together, folds.pool)
            assert not np.intersect1d(folds.training(fold), folds.validation(fold)).size

    @pytest.mark.parametrize("fold", [-1, 3])
    def test_a_fold_that_does_not_exist_is_an_error_and_not_the_test_split(self, make_store, fold):
        folds = split(make_store(mixed()))
        for rows in (folds.validation, folds.training):
            with pytest.raises(IndexError, match="0 \\.\\.\\. 2"):
                rows(fold)

    @pytest.mark.parametrize("seed", range(5))
    def test_no_patient_crosses_and_classes_keep_their_shares(self, make_store, seed):
        store = make_store(mixed())
        folds = split(store, k=4, seed=seed)
        assert folds_of(store, folds, "patient_id").max() == 1
        share = np.bincount(store.labels[folds.pool]) / len(folds.pool)
        for fold in range(4):
            labels = store.labels[folds.validation(fold)]
            assert np.abs(np.bincount(labels, minlength=3) / len(labels) - share).max() < 0.12

    def test_a_patient_with_forty_images_is_never_split(self, make_store):
        rows = balanced(patients=12, images=1)
        rows += [row(100 + i, "a", "many") for i in range(40)]
        store = make_store(rows)
        for seed in range(5):
            folds = split(store, seed=seed)
            assert len(set(folds.fold[store.patients == "many"].tolist())) == 1

    def test_one_seed_gives_one_division_and_another_seed_another(self, make_store):
        store = make_store(mixed())
        assert split(store, seed=7) == split(store, seed=7)
        assert np.array_equal(split(store, seed=7).fold, split(store, seed=7).fold)
        assert split(store, seed=7).digest != split(store, seed=8).digest
        assert not np.array_equal(split(store, seed=7).fold, split(store, seed=8).fold)

    def test_the_folds_cannot_be_changed_by_accident(self, make_store):
        with pytest.raises(ValueError, match="read-only"):
            split(make_store(mixed())).fold[0] = 1


class TestDuplicates:
    def test_planted_copies_of_different_patients_land_in_one_fold(self, make_store):
        rows = mixed()
        copies = {rows[i]["path"]: 0 for i in (0, 20, 40, 60)}
        store = make_store(rows, pixels=copies)
        holders = {rows[i]["patient"] for i in (0, 20, 40, 60)}
        assert len(holders) > 1
        for seed in range(6):
            folds = split(store, seed=seed)
            together = np.isin(store.patients, list(holders))
            assert len(set(folds.fold[together].tolist())) == 1
            assert folds_of(store, folds, "pixel_digest").max() == 1

    def test_near_copies_of_different_patients_land_in_one_fold(self, make_store):
        rows = mixed()
        shown = picture(900, height=32, width=32)
        store = make_store(rows, size=32, pictures={0: shown, 40: shown // 2 + 40, 60: shown // 3 + 90})
        together = np.isin(store.patients, [rows[i]["patient"] for i in (0, 40, 60)])
        for seed in range(4):
            assert len(set(split(store, seed=seed).fold[together].tolist())) == 1

    @pytest.mark.parametrize("inside", ["train", "val"])
    def test_a_copy_in_test_and_pool_is_an_error_that_names_both_files(self, make_store, inside):
        rows = [entry | {"split": "test" if i < 8 else inside} for i, entry in enumerate(balanced())]
        store = make_store(rows, pixels={"003.png": 900, "015.png": 900})
        with pytest.raises(DataError, match=r"003\.png .*015\.png .*the test split parts them"):
            split(store)


def leaking(make_store, **bonds):
    """Patients 0 ... 3 are in the test split; 9 holds a picture of 1, 10 nearly one of 2, and 11 is in both."""
    rows = [entry | {"split": "test" if i < 8 else "train"} for i, entry in enumerate(balanced(patients=14))]
    shown = {number: picture(900 + number, height=32, width=32) for number in (2, 4)}
    pictures = {}
    if bonds.get("exact"):
        pictures |= {2: shown[2], 18: shown[2]}
    if bonds.get("near"):
        pictures |= {4: shown[4], 20: shown[4] // 2 + 30}
    if bonds.get("patient"):
        rows[0]["patient"] = "011"
    return make_store(rows, size=32, pictures=pictures)


class TestOnLeak:
    @pytest.mark.parametrize(
        ("bond", "says"),
        [
            ("exact", r"002\.png \(patient '001'\) and .*018\.png \(patient '009'\) hold the same pixels"),
            ("near", r"004\.png \(patient '002'\) and .*020\.png \(patient '010'\) show nearly the same picture"),
            ("patient", r"000\.png \(patient '011'\) and .*022\.png \(patient '011'\) are of one patient"),
        ],
    )
    def test_error_names_two_files_the_number_of_cases_and_the_ways_out(self, make_store, bond, says):
        store = leaking(make_store, **{bond: True})
        with pytest.raises(DataError, match=says) as caught:
            split(store)
        for part in ("the test split parts them (1 such cases in all)", "on_leak: drop_train", "on_leak: keep"):
            assert part in str(caught.value)

    def test_drop_train_leaves_out_everything_that_is_bound_to_the_test_split(self, make_store):
        store = leaking(make_store, exact=True, near=True, patient=True)
        folds = split(store, on_leak="drop_train")
        assert set(store.patients[folds.dropped].tolist()) == {"009", "010", "011"}
        assert np.array_equal(folds.test, np.arange(8))
        used = np.concatenate([*(folds.training(fold) for fold in range(3)), folds.pool, folds.test])
        assert not np.isin(folds.dropped, used).any()
        assert len(folds.dropped) + len(folds.pool) + len(folds.test) == len(store)
        assert len(folds.bound) == len(folds.kept) == 0

    def test_keep_keeps_them_says_which_and_still_parts_no_group_among_the_folds(self, make_store):
        store = leaking(make_store, exact=True, near=True, patient=True)
        for seed in range(4):
            folds = split(store, on_leak="keep", seed=seed)
            assert np.array_equal(folds.pool, np.arange(8, 28))
            assert set(store.patients[folds.kept].tolist()) == {"009", "010", "011"}
            assert set(store.patients[folds.bound].tolist()) == {"001", "002", "011"}
            assert pd.Series(folds.fold[folds.pool]).groupby(folds.group[folds.pool]).nunique().max() == 1
            check_no_leak(folds, store)

    @pytest.mark.parametrize("on_leak", ["error", "drop_train", "keep"])
    def test_without_a_leak_all_three_give_the_same_division(self, make_store, on_leak):
        store = leaking(make_store)
        assert np.array_equal(split(store, on_leak=on_leak).fold, split(store).fold)

    @pytest.mark.parametrize("on_leak", ["drop_train", "keep"])
    def test_what_was_done_is_read_back(self, make_store, tmp_path: Path, on_leak):
        store = leaking(make_store, exact=True, near=True)
        folds = split(store, on_leak=on_leak)
        folds.save(tmp_path / "folds.parquet", store)
        again = load_folds(tmp_path / "folds.parquet")
        assert again == folds
        assert np.array_equal(again.group, folds.group)
        check_no_leak(again, store)
        frame = pd.read_parquet(tmp_path / "folds.parquet")
        assert (frame["split"] == "left out").sum() == len(folds.dropped)

    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("on_leak", ["drop_train", "keep"])
    def test_no_group_of_a_random_table_crosses(self, make_store, seed, on_leak):
        generator = np.random.default_rng(seed)
        rows = mixed(patients=40, seed=seed)
        for entry in rows:
            entry["split"] = "test" if generator.random() < 0.05 else "train"
        copies = {rows[i]["path"]: 900 + i % 5 for i in generator.choice(len(rows), 12, replace=False)}
        store = make_store(rows, pixels=copies)
        folds = split(store, seed=seed, on_leak=on_leak)
        for column in ("patient_id", "pixel_digest"):
            bond = store.index[column].to_numpy()
            assert pd.Series(folds.fold[folds.pool]).groupby(bond[folds.pool]).nunique().max() == 1
            shared = np.isin(bond[folds.pool], bond[folds.test])
            assert set(folds.pool[shared]) <= set(folds.kept)
        assert (len(folds.kept) > 0) == (on_leak == "keep")
        assert (len(folds.dropped) > 0) == (on_leak == "drop_train")
        assert np.array_equal(folds.test, np.flatnonzero(store.index["split"] == "test"))


class TestTestSplit:
    def test_the_source_s_test_split_is_the_locked_one_and_val_joins_the_folds(self, make_store):
        parts = ["train", "val", "test"]
        rows = [entry | {"split": parts[int(entry["patient"]) // 4]} for entry in balanced()]
        store = make_store(rows)
        for test in ("auto", "none"):
            folds = split(store, k=2, test=test)
            assert np.array_equal(folds.test, np.flatnonzero(store.index["split"] == "test"))
            assert np.array_equal(folds.pool, np.flatnonzero(store.index["split"] != "test"))

    @pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
    def test_a_source_without_one_gets_its_share_of_the_patients_of_every_class(self, make_store, fraction):
        store = make_store(mixed())
        folds = split(store, test_fraction=fraction)
        patients = store.index.drop_duplicates("patient_id")
        locked = patients["patient_id"].isin(store.patients[folds.test])
        for count, locked_count in zip(
            patients["label"].value_counts(sort=False), locked.groupby(patients["label"]).sum(), strict=True
        ):
            assert abs(locked_count - fraction * count) <= 0.5

    def test_none_leaves_every_image_in_the_folds(self, make_store):
        store = make_store(mixed())
        folds = split(store, test="none")
        assert len(folds.test) == 0
        assert len(folds.pool) == len(store)

    @pytest.mark.parametrize("seed", range(5))
    def test_a_test_split_that_is_drawn_parts_no_copies(self, make_store, seed):
        rows = mixed()
        copies = {rows[i]["path"]: i % 7 + 900 for i in range(0, len(rows), 9)}
        folds = split(make_store(rows, pixels=copies), seed=seed)
        assert len(folds.test)
        assert not np.isin(folds.group[folds.test], folds.group[folds.pool]).any()


class TestRefusals:
    def test_too_few_patients_for_k_names_class_patients_and_k(self, make_store):
        rows = [*balanced(), *(row(50 + i, "rare", f"r{i // 3}") for i in range(9))]  # 9 images, 3 patients
        store = make_store(rows)
        with pytest.raises(DataError, match=r"class 'rare' has 3 patients .* k = 4 .* Lower k to 3"):
            split(store, k=4, test="none")
        assert split(store, k=3, test="none").k == 3

    def test_copies_count_once(self, make_store):
        rows = [*balanced(), *(row(50 + i, "rare", f"r{i}") for i in range(3))]
        store = make_store(rows, pixels={"050.png": 999, "051.png": 999})
        with pytest.raises(DataError, match=r"class 'rare' has 2 patients .* k = 3"):
            split(store, k=3, test="none")

    def test_one_fold_is_no_cross_validation(self, make_store):
        with pytest.raises(DataError, match="k must be at least 2, but got 1"):
            split(make_store(balanced()), k=1)

    def test_patients_entangled_in_every_class_are_divided_so_that_every_fold_has_every_class(self, make_store):
        rows = []
        for patient in range(6):
            rows += [row(len(rows), "a", f"{patient}"), row(len(rows) + 1, "b", f"{patient}")]
        rows += [row(100, "c", "0"), row(101, "c", "1")]
        store = make_store(rows)
        for seed in range(10):
            folds = split(store, k=2, seed=seed, test="none")
            assert all(len(set(store.labels[folds.validation(fold)].tolist())) == 3 for fold in range(2))


class TestFile:
    def test_folds_come_back_as_they_were_saved(self, make_store, tmp_path: Path):
        store = make_store(mixed())
        folds = split(store)
        folds.save(tmp_path / "folds.parquet", store)
        again = load_folds(tmp_path / "folds.parquet")
        assert again == folds
        assert np.array_equal(again.fold, folds.fold)
        check_no_leak(again, store)

    def test_the_file_is_readable_without_consilia(self, make_store, tmp_path: Path):
        store = make_store(mixed())
        folds = split(store)
        folds.save(tmp_path / "folds.parquet", store)
        frame = pd.read_parquet(tmp_path / "folds.parquet")
        assert list(frame.columns) == ["image_id", "patient_id", "label", "split", "fold", "group"]
        assert frame["patient_id"].tolist() == store.patients.tolist()
        assert np.array_equal(np.flatnonzero(frame["split"] == "test"), folds.test)

    @pytest.mark.parametrize("column", ["fold", "label", "patient_id", "group"])
    def test_a_changed_cell_is_noticed(self, make_store, tmp_path: Path, column):
        store = make_store(mixed())
        path = tmp_path / "folds.parquet"
        split(store).save(path, store)
        table = pq.read_table(path)
        values = table[column].to_pylist()
        values[0], values[-1] = values[-1], values[0]
        assert values != table[column].to_pylist()
        changed = table.set_column(table.column_names.index(column), column, [values])
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(DataError, match=r"folds\.parquet was changed after it was written"):
            load_folds(path)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"fold\n1\n"])
    def test_what_is_no_folds_file_is_named(self, tmp_path: Path, content):
        path = tmp_path / "folds.parquet"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"folds\.parquet cannot be read"):
            load_folds(path)

    def test_a_foreign_parquet_and_a_missing_file_are_named(self, tmp_path: Path):
        pd.DataFrame({"fold": [1]}).to_parquet(tmp_path / "other.parquet")
        with pytest.raises(DataError, match=r"other\.parquet"):
            load_folds(tmp_path / "other.parquet")
        with pytest.raises(DataError, match=r"absent\.parquet"):
            load_folds(tmp_path / "absent.parquet")


class TestCheck:
    def test_folds_of_other_data_are_refused(self, make_store):
        store, other = make_store(mixed()), make_store(mixed(seed=1), name="other")
        with pytest.raises(DataError, match="Use the data they were made for"):
            check_no_leak(split(other), store)

    def test_a_patient_in_two_folds_is_named(self, make_store):
        store = make_store(balanced())
        folds = split(store)
        fold = folds.fold.copy()
        row_of_patient = np.flatnonzero(store.patients == "005")[0]
        fold[row_of_patient] = (fold[row_of_patient] + 1) % 3
        with pytest.raises(DataError, match=r"patient '005'.*fold parts them"):
            check_no_leak(replace(folds, fold=fold), store)

    def test_where_no_patients_are_known_only_files_are_named(self, make_store):
        store = make_store(balanced(), pixels={"002.png": 800, "008.png": 800}, group="none")
        folds = split(store)
        fold = folds.fold.copy()
        fold[8] = (fold[2] + 1) % 3
        with pytest.raises(DataError, match=r"002\.png and 008\.png hold the same pixels, but a fold") as refused:
            check_no_leak(replace(folds, fold=fold), store)
        assert "(patient" not in str(refused.value)

    def test_a_copy_in_two_folds_is_named(self, make_store):
        store = make_store(balanced(), pixels={"002.png": 800, "008.png": 800})
        folds = split(store)
        fold = folds.fold.copy()
        patient = store.patients == "004"  # holds 008.png
        fold[patient] = (fold[patient] + 1) % 3
        with pytest.raises(DataError, match=r"002\.png .*008\.png"):
            check_no_leak(replace(folds, fold=fold), store)

    def test_a_near_copy_in_two_folds_is_named(self, make_store):
        shown = picture(900, height=32, width=32)
        store = make_store(balanced(), size=32, pictures={2: shown, 8: shown // 2 + 60})
        folds = split(store)
        fold = folds.fold.copy()
        patient = store.patients == "004"
        fold[patient] = (fold[patient] + 1) % 3
        with pytest.raises(DataError, match=r"002\.png .*008\.png .*nearly the same picture"):
            check_no_leak(replace(folds, fold=fold), store)

    def test_keep_excuses_the_test_split_and_no_fold(self, make_store):
        store = leaking(make_store, exact=True)
        folds = split(store, on_leak="keep")
        fold = folds.fold.copy()
        first = folds.pool[0]
        fold[first] = (fold[first] + 1) % 3
        with pytest.raises(DataError, match="a fold parts them"):
            check_no_leak(replace(folds, fold=fold), store)
        with pytest.raises(DataError, match="a fold parts them"):
            check_no_leak(replace(folds, on_leak="error"), store)


class TestDividedAgain:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("on_leak", ["drop_train", "keep"])
    def test_no_group_is_split_and_what_is_locked_or_left_out_stays(self, make_store, seed, on_leak):
        generator = np.random.default_rng(seed)
        rows = mixed(patients=40, seed=seed)
        for entry in rows:
            entry["split"] = "test" if generator.random() < 0.05 else "train"
        store = make_store(rows)
        folds = split(store, seed=seed, on_leak=on_leak)
        other = divide_again(folds, store, seed=seed + 100)
        assert np.array_equal(other.fold[folds.fold < 0], folds.fold[folds.fold < 0])
        assert np.array_equal(other.pool, folds.pool)
        assert np.array_equal(other.group, folds.group)
        assert (other.k, other.on_leak, other.store_digest) == (folds.k, folds.on_leak, folds.store_digest)
        assert pd.Series(other.fold[other.pool]).groupby(other.group[other.pool]).nunique().max() == 1
        for fold in range(folds.k):
            assert set(store.labels[other.validation(fold)]) == set(store.labels)
        check_no_leak(other, store)

    @pytest.mark.parametrize("seed", range(12))
    def test_it_is_another_division_and_the_same_for_the_same_seed(self, make_store, seed):
        store = make_store([row(i, "aabb"[i], str(i)) for i in range(4)])  # there are two divisions
        folds = split(store, k=2, test="none", seed=0)
        other = divide_again(folds, store, seed=seed)
        assert not all(
            np.any([np.array_equal(other.validation(i), folds.validation(j)) for j in (0, 1)]) for i in (0, 1)
        )
        assert divide_again(folds, store, seed=seed) == other
        assert other.digest != folds.digest

    def test_a_division_that_is_the_only_one_is_an_error(self, make_store):
        store = make_store([row(0, "a", "1"), row(1, "b", "1"), row(2, "a", "2"), row(3, "b", "2")])
        folds = split(store, k=2, test="none")
        with pytest.raises(DataError, match=r"2 groups .* set search\.confirm to 0"):
            divide_again(folds, store, seed=1)

    def test_it_comes_back_as_it_was_saved(self, make_store, tmp_path: Path):
        store = make_store(mixed())
        other = divide_again(split(store), store, seed=5)
        other.save(tmp_path / "folds.parquet", store)
        assert load_folds(tmp_path / "folds.parquet") == other
