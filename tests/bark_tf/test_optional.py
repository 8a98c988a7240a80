import json

import pytest

from bark_tf.optional import required


def test_a_package_that_is_there_is_imported():
    assert required("json", "Reading JSON", "none") is json


def test_a_missing_package_names_itself_and_its_extra():
    message = r"^Singing needs .* no-such, .* clone: pip install \"\.\[choir\]\"\)$"
    with pytest.raises(ImportError, match=message):
        required("no_such.part", "Singing", "choir")
