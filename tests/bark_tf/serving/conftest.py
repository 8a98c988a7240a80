import pytest
import toy
import toy_export


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """One export with all filters, for all tests of a session."""
    folder = tmp_path_factory.mktemp("models") / "bark"
    return toy.shared_bark().export(
        folder, toy_export.processor(), **toy_export.FILTERS
    )
