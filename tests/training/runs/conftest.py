import pytest
import toy_trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The final weights of a run that nothing stopped."""
    return toy_trainer.final_weights(tmp_path_factory.mktemp("whole"))
