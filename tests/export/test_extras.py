"""An export whose packages are missing says which, and how to install them."""

import pytest

from consilia.errors import UserError
from consilia.export import extras


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(extras._MODULES, "dicom", ("highdicom", "no_such_package"))
    with pytest.raises(UserError, match=r"needs no_such_package, .*: pip install 'consilia\[dicom\]'"):
        extras.check_extra("dicom")


@pytest.mark.parametrize("name", extras._MODULES)
def test_every_extra_is_installed_where_tests_run(name):
    extras.check_extra(name)
