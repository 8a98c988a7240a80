"""The benchmarks at toy size; speeds are for the scripts to print."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from bark_tf import BarkConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = BarkConfig.preset("bark-small")


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_floors_are_the_work_over_the_limits(script):
    """The numbers of bark-small as they follow from its sizes by hand."""
    floors = script("floors")
    part, gigabyte = SMALL.semantic_config, 1e9
    slow_reader = floors.Limits(gigabyte, 1e30, 4)
    kernels = 12 * 12 * 768**2 + 10_001 * 768
    caches = 2 * 12 * 768 * 300
    one = floors.step_s(part, 10_001, 300, 1, slow_reader)
    assert one == pytest.approx(4 * (kernels + caches) / gigabyte)
    eight = floors.step_s(part, 10_001, 300, 8, slow_reader)
    assert eight == pytest.approx(4 * (kernels + 8 * caches) / gigabyte)
    slow_multiplier = floors.Limits(1e30, gigabyte, 4)
    least = floors.stages_s(SMALL, 128, 1, slow_multiplier)
    # 215 GFLOP, measured by another count.
    assert least["fine"] / 6 == pytest.approx(214, rel=0.01)
    assert least["total"] == sum(
        least[stage] for stage in ("semantic", "coarse", "fine", "codec")
    )
    assert floors.fine_s(SMALL.fine_acoustics_config, 1025, 1, slow_multiplier) == (
        pytest.approx(2 * least["fine"])
    )
    # A window's prompt is read again once the history is longer than it may be.
    coarse = SMALL.coarse_acoustics_config
    per_token = [
        floors.coarse_s(coarse, count, 1, slow_multiplier) / count
        for count in (600, 1_200)
    ]
    assert per_token[1] > 2 * per_token[0]


def test_operations_of_all_layers_have_one_name(script):
    label, covered = script("operations").label, script("operations").covered
    assert label("while/block_3_1/mlp_1/fc_1/MatMul") == "mlp/fc/MatMul"
    assert label("block_11/attention/MatMul_1") == "attention/MatMul"
    assert label("while/lm_head_1/MatMul") == "lm_head/MatMul"
    assert covered([(0, 2), (1, 3), (5, 6), (5, 5)]) == 4


def test_targets_are_met_on_their_own_side(script):
    line = script("targets").Line
    assert line("share", 0.8, 0.8).is_met and not line("share", 0.79, 0.8).is_met
    assert line("s", 8, 8, False).is_met and not line("s", 8.1, 8, False).is_met


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "generate --preset tiny --tokens 4 --repeats 1 --only bark_tf --also int8 "
        "--rows 2 --plot plot.png",
        "operations --preset tiny --tokens 4",
        "long_form --preset tiny --seconds 1 6 --repeats 1 --sentences 2",
        "targets --preset tiny --tokens 4 --repeats 1 --sections int8",
    ],
)
def test_scripts_run(script, arguments, monkeypatch, tmp_path, capsys):
    name, *rest = arguments.split()
    module = script(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{name}.py", *rest])
    module.main()
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    if name == "generate":
        shares = found["results"]["int8"]["shares"]
        assert 0 < shares["total"] < 1 and (tmp_path / "plot.png").stat().st_size
        assert found["results"]["bark_tf"]["rows"].keys() == {"2"}
    elif name == "operations":
        for stage in ("semantic", "fine"):
            named = {row["operation"]: row for row in found[stage]}
            assert named["mlp/fc/MatMul"]["ms"] > 0
            assert named["attention/qkv/MatMul"]["floor_ms"] > 0
    elif name == "long_form":
        short, long = (row["audio_s"] for row in found["rows"])
        assert short == 2.56 and long > 2 * short
        assert "1" in found["one_call_mb"]
    else:
        assert [line["aim"] for line in found["lines"]] == [1.6]


def test_quality_is_errors_and_equal_choices(script):
    quality = script("quality")
    reference = {stage: np.eye(3) for stage in quality.PARTS}
    turned = {stage: np.eye(3)[::-1] for stage in quality.PARTS}
    for values in quality.compare_logits(turned, reference).values():
        assert values["agreement"] == pytest.approx(1 / 3)
        assert values["error"] == pytest.approx((4 / 9) ** 0.5 / np.eye(3).std())


@pytest.mark.slow
def test_int8_is_near_float32(script):
    quality = script("quality")
    found = quality.measure(quality.parse(["--count", "2", "--kinds", "int8"]))
    for values in found["int8"]["stages"].values():
        assert 0 < values["error"] < 0.05
        assert 0.9 < values["agreement"] <= 1
