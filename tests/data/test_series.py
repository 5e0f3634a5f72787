"""The order of slices is that of space, whatever the files are called, or it is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilia.data.sources.dicom_files import DicomFile, choose_slices, group_by_series, in_space
from consilia.errors import DataError


def slice_at(name: str, position, orientation=(1, 0, 0, 0, 1, 0), number: str = "") -> DicomFile:
    text = ["\\".join(f"{value:.6f}" for value in values) for values in (orientation, position)]
    return DicomFile(
        file=name, key="k", patient="p", n_frames=1, series="1.2", orientation=text[0], position=text[1], number=number
    )


def numbered(name: str, number: str) -> DicomFile:
    return DicomFile(file=name, key="k", patient="p", n_frames=1, series="1.2", number=number)


def refused(files, frames="each") -> str:
    with pytest.raises(DataError) as caught:
        choose_slices(files, frames, origin="scans")
    return str(caught.value)


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    order=st.permutations(range(7)),
    gap=st.floats(0.1, 10),
)
def test_any_oblique_stack_is_sorted_along_its_normal(angles, order, gap):
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = turn @ rotation
    corner = np.array([-120.0, 30.0, 400.0])
    stack = [slice_at(str(i), corner + i * gap * rotation[2], (*rotation[0], *rotation[1])) for i in range(7)]
    normal = np.cross(rotation[0], rotation[1])
    assert np.allclose(normal, rotation[2], atol=1e-9)
    assert [each.file for each in in_space([stack[i] for i in order], origin="x")] == [str(i) for i in range(7)]


@pytest.mark.parametrize(("count", "middle"), [(2, "1"), (3, "1"), (4, "2"), (5, "2")])
def test_the_middle_of_n_is_n_half(count, middle):
    stack = [slice_at(str(i), (0, 0, i)) for i in range(count)][::-1]
    assert [each.file for each in choose_slices(stack, "middle", origin="x")] == [middle]


def test_without_positions_the_instance_number_orders():
    files = [numbered("b", "10"), numbered("a", "9"), numbered("c", "-1")]
    assert [each.file for each in choose_slices(files, "each", origin="x")] == ["c", "a", "b"]


def test_positions_count_and_not_the_instance_number():
    files = [slice_at("high", (0, 0, 5), number="1"), slice_at("low", (0, 0, 0), number="2")]
    assert [each.file for each in in_space(files, origin="x")] == ["low", "high"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([slice_at("a", (0, 0, 0)), slice_at("b", (0, 0, 0))], "a and b lie at the same place"),
        ([slice_at("a", (0, 0, 0)), slice_at("b", (9, 0, 0))], "a and b lie at the same place"),
        ([slice_at("a", (0, 0, 0)), slice_at("b", (0, 0, 1), (0, 1, 0, 0, 0, -1))], "a and b are not parallel"),
        ([slice_at("a", (0, 0, 0)), numbered("b", "2")], "b has no position in space, but a has one"),
        ([numbered("a", "2"), numbered("b", "2")], "a and b have the same InstanceNumber"),
        ([numbered("a", "2"), numbered("b", "")], "b has neither a position in space nor an InstanceNumber"),
        ([replace(slice_at("a", (0, 0, 0)), position="1\\x\\2"), slice_at("b", (0, 0, 1))], "a must give 3 numbers"),
        ([replace(slice_at("a", (0, 0, 0)), position="1\\2"), slice_at("b", (0, 0, 1))], "a must give 3 numbers"),
        ([replace(slice_at("a", (0, 0, 0)), position="1\\2\\nan"), slice_at("b", (0, 0, 1))], "a must give 3 numbers"),
    ],
)
def test_an_order_that_nobody_knows_is_refused(files, says):
    message = refused(files)
    assert says in message
    assert "scans" in message


def test_a_file_of_several_frames_among_slices_has_no_middle():
    files = [slice_at("a", (0, 0, 0)), replace(slice_at("b", (0, 0, 1)), n_frames=3)]
    assert "some of several frames" in refused(files, "middle")
    assert len(choose_slices(files, "each", origin="x")) == 2


def test_a_file_without_a_series_is_named():
    with pytest.raises(DataError, match="b has no SeriesInstanceUID"):
        group_by_series([numbered("a", "1"), replace(numbered("b", "2"), series="")], origin="x")
