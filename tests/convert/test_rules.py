"""Conversion tables, on a toy table."""

import keras
import numpy as np
import pytest
from toy_files import DictCheckpoint

from bark_tf.convert import rules
from bark_tf.convert.rules import REVERSE_AXES, Rule, Table

TABLE = Table(
    (
        Rule("linear/kernel", "linear.weight", (2, 3)),
        Rule("conv/kernel", "conv.weight", (3, 4, 5), REVERSE_AXES),
    ),
    aliases={"head.weight": "linear.weight"},
    constants={"mask": lambda: np.ones((1, 2), bool)},
)


def make_variables():
    return {
        path: keras.Variable(np.zeros(shape), dtype="float32")
        for path, shape in TABLE.shapes.items()
    }


def make_arrays(prefix=""):
    linear = np.arange(6, dtype="float32").reshape(2, 3) + 1
    conv = np.arange(60, dtype="float32").reshape(5, 4, 3) + 1
    return {f"{prefix}linear.weight": linear, f"{prefix}conv.weight": conv}


def load(arrays, table=TABLE, **options):
    variables = make_variables()
    rules.load(table, variables, DictCheckpoint(arrays), **options)
    return {path: np.array(variable) for path, variable in variables.items()}


def refuse(arrays, **options):
    """The error of `load`, which must have read and written nothing."""
    variables, checkpoint = make_variables(), DictCheckpoint(arrays)
    with pytest.raises(ValueError) as caught:
        rules.load(TABLE, variables, checkpoint, **options)
    assert checkpoint.num_reads == 0
    assert not any(np.any(variable) for variable in variables.values())
    return str(caught.value)


def test_load_writes_every_variable():
    loaded = load(make_arrays())
    np.testing.assert_array_equal(loaded["linear/kernel"], [[1, 2, 3], [4, 5, 6]])
    assert loaded["conv/kernel"].shape == (3, 4, 5)
    conv = make_arrays()["conv.weight"]
    assert loaded["conv/kernel"][2, 1, 4] == conv[4, 1, 2]


def test_tensors_are_the_inverse_of_load():
    variables = make_variables()
    rules.load(TABLE, variables, DictCheckpoint(make_arrays()))
    listed = list(rules.tensors(TABLE, variables))
    assert [(name, shape, dtype) for name, shape, dtype, _ in listed] == [
        ("linear.weight", (2, 3), "float32"),
        ("conv.weight", (5, 4, 3), "float32"),
        ("mask", (1, 2), "bool"),
    ]
    arrays = {name: make() for name, _, _, make in listed}
    for name, array in make_arrays().items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert arrays["mask"].all()


def test_other_dtypes_are_cast():
    arrays = {name: array.astype("f8") for name, array in make_arrays().items()}
    assert load(arrays)["linear/kernel"].dtype == "float32"


def test_tensors_are_made_when_their_turn_comes():
    variables = make_variables()
    listed = list(rules.tensors(TABLE, variables))
    variables["linear/kernel"].assign(np.full((2, 3), 7, "float32"))
    assert listed[0][3]().max() == 7


def test_missing_and_unknown_tensors_are_named():
    arrays = make_arrays()
    arrays["other"] = arrays.pop("conv.weight")
    message = refuse(arrays, source="here.bin")
    assert message == (
        "here.bin does not fit the model: it lacks conv.weight; it has no place for "
        "other"
    )


def test_long_lists_are_cut():
    extra = {f"extra_{i}": np.zeros(1) for i in range(8)}
    message = refuse(make_arrays() | extra)
    assert message.endswith("extra_0, extra_1, extra_2, extra_3, extra_4 and 3 more")


@pytest.mark.parametrize("shape", [(5, 4, 2), (3, 4, 5), (5, 4, 3, 1), (60,)])
def test_wrong_shapes(shape):
    arrays = make_arrays() | {"conv.weight": np.zeros(shape, "float32")}
    message = refuse(arrays, prefix="")
    assert f"'conv.weight' has shape {shape}, expected (5, 4, 3)" in message


def test_second_names_stand_in_for_the_first():
    arrays = make_arrays()
    arrays["head.weight"] = arrays.pop("linear.weight")
    assert load(arrays)["linear/kernel"][1, 2] == 6


def test_first_names_win_over_the_second():
    arrays = make_arrays() | {"head.weight": np.zeros((2, 3), "float32")}
    assert load(arrays)["linear/kernel"][1, 2] == 6


def test_constants_are_dropped():
    assert load(make_arrays() | {"mask": np.zeros(9)})["linear/kernel"].all()


def test_a_part_is_read_out_of_a_whole():
    arrays = make_arrays("part.") | {"partner.weight": np.zeros(1)}
    assert load(arrays, prefix="part.")["conv/kernel"].all()
    del arrays["part.linear.weight"]
    assert "lacks part.linear.weight" in refuse(arrays, prefix="part.")
    assert "has no place for part.conv.weight" in refuse(make_arrays("part."))


@pytest.mark.parametrize(
    ("stored", "canonical"),
    [
        ("a.weight", "a.weight"),
        ("_orig_mod.a.weight", "a.weight"),
        ("semantic._orig_mod.a.weight", "semantic.a.weight"),
        ("my_orig_mod.a", "my_orig_mod.a"),
        ("module._orig_mod.a.weight", "a.weight"),
        ("semantic.module.a.weight", "semantic.a.weight"),
        ("my_module.a", "my_module.a"),
        ("a.parametrizations.weight.original0", "a.weight_g"),
        ("_orig_mod.a.parametrizations.weight.original1", "a.weight_v"),
        ("a.parametrizations.weight.original2", "a.parametrizations.weight.original2"),
    ],
)
def test_canonical_names(stored, canonical):
    assert rules.canonical_name(stored) == canonical


def test_names_of_compiled_modules():
    assert load(make_arrays("_orig_mod."))["conv/kernel"].all()
    arrays = make_arrays("_orig_mod.part.")
    assert load(arrays, prefix="part.")["conv/kernel"].all()


def test_a_tensor_that_is_there_twice():
    """The later one would silently replace the first."""
    arrays = make_arrays()
    arrays["_orig_mod.linear.weight"] = arrays["linear.weight"]
    message = refuse(arrays)
    assert "twice: as 'linear.weight' and '_orig_mod.linear.weight'" in message


def test_tables_that_do_not_fit_their_model():
    variables = make_variables()
    twice = Table((*TABLE.rules, TABLE.rules[0]))
    for table in (Table(TABLE.rules[:1]), twice):
        with pytest.raises(RuntimeError, match="table and the model differ"):
            rules.load(table, variables, DictCheckpoint(make_arrays()))
        with pytest.raises(RuntimeError, match="table and the model differ"):
            list(rules.tensors(table, variables))
    with pytest.raises(RuntimeError, match="conv/kernel"):
        del variables["conv/kernel"]
        rules.load(TABLE, variables, DictCheckpoint(make_arrays()))


def test_fit_says_where_tensors_are_stored():
    arrays = make_arrays("_orig_mod.part.")
    arrays["part.head.weight"] = arrays["_orig_mod.part.linear.weight"]
    assert rules.fit(TABLE, DictCheckpoint(arrays), prefix="part.") == {
        "linear.weight": "_orig_mod.part.linear.weight",
        "conv.weight": "_orig_mod.part.conv.weight",
        "head.weight": "part.head.weight",
    }


def test_below_and_join():
    first = TABLE.below("a/", "a.")
    assert first.rules[1] == TABLE.rules[1]._replace(
        ours="a/conv/kernel", theirs="a.conv.weight"
    )
    assert first.aliases == {"a.head.weight": "a.linear.weight"}
    assert first.constants["a.mask"]().shape == (1, 2)
    joined = rules.join(first, TABLE.below("", "b."))
    assert [rule.theirs for rule in joined.rules] == [
        *("a.linear.weight", "a.conv.weight", "b.linear.weight", "b.conv.weight")
    ]
    assert joined.aliases.keys() == {"a.head.weight", "b.head.weight"}
    assert joined.constants.keys() == {"a.mask", "b.mask"}
