"""Where the time of a decode step and of a fine pass goes, per operation.

    python benchmarks/operations.py                      # bark-small's sizes, float32
    python benchmarks/operations.py --dtype bfloat16 --tokens 32
    python benchmarks/operations.py --model DIR --top 30

TensorFlow's profiler records one call of the semantic stage and one of the fine stage,
after calls that compile. Operations of all layers are added up under one name: compiled
ones under the name that their program's HLO gives them. The share is that of the time
in which the machine reads the operation's kernels or caches (decoding) or multiplies
(fine passes), measured in the same run. Operations may overlap: the last row is the
time in which none ran. The last line of the output is one JSON object.
"""

import argparse
import collections
import json
import os
import re
import tempfile
from pathlib import Path

import floors
import generate
import numpy as np

# These contain others.
CONTAINERS = ("while", "call", "conditional", "tuple")


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="checkpoint directory; random weights if absent"
    )
    parser.add_argument("--preset", default="bark-small")
    parser.add_argument("--tokens", type=int, default=64, help="semantic tokens")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--top", type=int, default=15, help="operations that are shown")
    return parser.parse_args(arguments)


# === Reading a profile ===


def profile(run):
    """The `XSpace` of one call, after one that compiles."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    run()
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=2, python_tracer_level=0
    )
    with tempfile.TemporaryDirectory() as directory:
        with tf.profiler.experimental.Profile(directory, options):
            run()
        (path,) = Path(directory).rglob("*.xplane.pb")
        return xplane_pb2.XSpace.FromString(path.read_bytes())


def source_names(space):
    """Name of an HLO instruction -> the name of what it was made from."""
    from tensorflow.compiler.xla.service import hlo_pb2

    names = {}
    for plane in space.planes:
        for entry in plane.event_metadata.values():
            for stat in entry.stats:
                if plane.stat_metadata[stat.metadata_id].name == "Hlo Proto":
                    module = hlo_pb2.HloProto.FromString(stat.bytes_value).hlo_module
                    for computation in module.computations:
                        for one in computation.instructions:
                            names[one.name] = one.metadata.op_name or one.opcode
    return names


def label(name):
    """`mlp/fc/MatMul` of `while/block_3_1/mlp_1/fc_1/MatMul`, so the same in all."""
    name = re.sub(r".*block_\d+(_\d+)?/", "", name)
    return re.sub(r"_\d+(?=/|$)", "", name).removeprefix("while/")


def operation(plane, event, names):
    """The label of an event, or None if it is no operation; and whether XLA made it."""
    for stat in event.stats:
        if plane.stat_metadata[stat.metadata_id].name == "hlo_op":
            hlo = stat.str_value or plane.stat_metadata[stat.ref_value].name
            if hlo.split(".")[0] in CONTAINERS:
                return None, True
            return label(names.get(hlo, hlo)), True
    name = plane.event_metadata[event.metadata_id].name
    path, colon, kind = name.rpartition(":")
    is_operation = (
        colon and re.fullmatch(r"[\w/]+", path) and re.fullmatch(r"\w+", kind)
    )
    return (label(path) if is_operation and path != kind else None), False


def covered(intervals):
    """The length of the union of (start, end) pairs."""
    total = last = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, last))
        last = max(last, end)
    return total


def seconds_of(space, is_compiled):
    """Of the operations that XLA made, or of the others.

    Returns:
        Label -> seconds; seconds from the first start to the last end, and those of
        them in which any operation ran.
    """
    names, seconds, intervals = source_names(space), collections.Counter(), []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, is_made = operation(plane, event, names)
                if name is not None and is_made == is_compiled:
                    start = 1000 * line.timestamp_ns + event.offset_ps
                    seconds[name] += event.duration_ps / 1e12
                    intervals.append((start, start + event.duration_ps))
    starts, ends = zip(*intervals, strict=True)
    return seconds, (max(ends) - min(starts)) / 1e12, covered(intervals) / 1e12


# === Floors ===


def values_of(part, ids):
    """Label of an operation -> values of its kernels in all layers."""
    square = part.num_layers * part.hidden_size**2
    return {
        "attention/qkv": 3 * square,
        "attention/out": square,
        "mlp/fc": 4 * square,
        "mlp/proj": 4 * square,
        "MatMul": ids * part.hidden_size,  # the head, outside of all blocks
    }


def step_floors(part, position, limits):
    """Label -> least seconds in a decode step."""
    values = values_of(part, floors.SEMANTIC_IDS)
    values["attention/MatMul"] = 2 * part.num_layers * part.hidden_size * position
    scale = limits.size / limits.bytes_per_s
    return {name: scale * count for name, count in values.items()}


def pass_floors(part, limits):
    """Label -> least seconds in a fine pass."""
    frames = floors.FINE_FRAMES
    values = values_of(part, floors.CODES)
    values["attention/MatMul"] = 2 * part.num_layers * part.hidden_size * frames
    return {
        name: 2 * frames * count / limits.flops_per_s for name, count in values.items()
    }


def table(space, is_compiled, count, least):
    """Rows of one profile: label, milliseconds per step, floor, share."""
    seconds, total, busy = seconds_of(space, is_compiled)
    rows = []
    for name, spent in seconds.most_common():
        prefix = next((key for key in least if name.startswith(key)), None)
        is_product = prefix is not None and "MatMul" in name
        floor = least[prefix] if is_product else 0.0
        ms = 1e3 * spent / count
        rows.append(
            {
                "operation": name,
                "ms": round(ms, 3),
                "of_all": round(spent / total, 3),
                "floor_ms": float(f"{1e3 * floor:.3g}"),
                "share": round(1e3 * floor / ms, 2) if ms else 0.0,
            }
        )
    idle = total - busy
    rows.append({"operation": "no operation", "ms": round(1e3 * idle / count, 3)})
    rows[-1] |= {"of_all": round(idle / total, 3), "floor_ms": 0.0, "share": 0.0}
    return rows


def show(title, rows, top):
    print(title)
    print(f"  {'operation':44} {'ms':>9} {'of all':>7} {'floor ms':>9} {'share':>6}")
    for row in rows[:top] + rows[max(top, len(rows) - 1) :]:
        share = f"{row['share']:.0%}" if row["floor_ms"] else ""
        floor = f"{row['floor_ms']:.3f}" if row["floor_ms"] else ""
        print(
            f"  {row['operation'][:44]:44} {row['ms']:9.3f} {row['of_all']:7.1%} "
            f"{floor:>9} {share:>6}"
        )


# === Measuring ===


def measure(args):
    """Rows of a decode step and of a fine pass, and the limits."""
    import limits

    from bark_tf import BarkModel

    can_do = floors.Limits(*limits.limits(args.dtype))
    model = BarkModel.from_pretrained(args.model, dtype=args.dtype)
    ids, mask = generate.inputs(1)
    codes = 10_000 + np.random.default_rng(0).integers(0, 1_024, (1, 120))
    codes[:, 1::2] += 1_024
    decoded = profile(
        lambda: model.semantic.generate(
            ids, attention_mask=mask, max_new_tokens=args.tokens
        )
    )
    passed = profile(lambda: model.fine_acoustics.generate(codes.astype(np.int32)))
    semantic = model.config.semantic_config
    position = floors.SEMANTIC_PROMPT + args.tokens // 2
    return {
        "limits": can_do._asdict(),
        "semantic": table(
            decoded, True, args.tokens - 1, step_floors(semantic, position, can_do)
        ),
        "fine": table(
            passed,
            False,
            floors.FINE_PASSES,
            pass_floors(model.config.fine_acoustics_config, can_do),
        ),
    }


def main():
    args = parse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = str(Path(scratch) / args.preset)
            generate.random_checkpoint(args.preset, args.model)
        found = measure(args)
    show("decoding semantic tokens, per step", found["semantic"], args.top)
    show("fine stage, per pass", found["fine"], args.top)
    print(json.dumps({"arguments": vars(args), **found}))


if __name__ == "__main__":
    main()
