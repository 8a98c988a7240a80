import pytest
import toy_trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The final weights of a run that nothing stopped."""
    return toy_trainer.final_weights(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A toy Bark in `model`, and recordings of random tokens in `data`."""
    directory = tmp_path_factory.mktemp("prepared")
    toy_trainer.write_prepared(directory)
    return directory
