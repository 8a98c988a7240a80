"""Damage: functions that change a file as accidents and attackers would.

Each takes a `random.Random` and the bytes of a file, and returns other bytes; those in
`PLACES` put something else where the file was.
"""

import io
import json
import math
import os
import pickletools
import stat
import struct
import warnings
import zipfile

import torch_writer as torch

# === Any bytes ===

_SIZES = (1, 2, 4, 8)
_LIES = (0, 1, -1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1)


def _place(rng, data):
    """A position, half of the time among the first bytes, which are a header's."""
    end = min(len(data), 200) if rng.random() < 0.5 else len(data)
    return rng.randrange(end) if end else 0


def truncate(rng, data):
    return data[: _place(rng, data)]


def flip_bits(rng, data):
    data = bytearray(data)
    for _ in range(min(len(data), rng.choice((1, 1, 2, 8, 64)))):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def splice(rng, data):
    """Copies a part to another place, over or between what is there."""
    start, target = _place(rng, data), _place(rng, data)
    part = data[start : start + rng.choice((1, 8, 64, 1_000))]
    over = len(part) if rng.random() < 0.5 else 0
    return data[:target] + part + data[target + over :]


def overwrite(rng, data):
    start, size = _place(rng, data), rng.choice((1, 4, 16, 256))
    fill = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return data[:start] + fill + data[start + size :]


def remove(rng, data):
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 2, 8, 100)) :]


def append(rng, data):
    return data + rng.choice((b"\0", b"\n", rng.randbytes(100), data))


def lie(rng, data):
    """Writes an extreme number where a length or an offset may be."""
    start, size = _place(rng, data), rng.choice(_SIZES)
    number = rng.choice(_LIES) % (1 << 8 * size)
    order = rng.choice(("little", "big"))
    return data[:start] + number.to_bytes(size, order) + data[start + size :]


def empty(rng, data):
    return rng.choice((b"", b"", b"\0", b"\n", b" ", b"{}", bytes(1_000)))


BYTES = (truncate, flip_bits, flip_bits, splice, overwrite, remove, append, lie, empty)


def any_bytes(rng, data):
    return rng.choice(BYTES)(rng, data)


# === JSON ===

_HUGE = 10**12
_TEXTS = (
    *("", " ", "\0", "é", "\ud800", "../../outside", "/etc/passwd", "~", "C:\\x"),
    *("true", "None", "nan", "1", "float32", "__class__", "x" * 300, "y" * 100_000),
    *("\r\n", "http://127.0.0.1:9/x", "model", "semantic", "lora", "{", "%s%n"),
)
_NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 39.5, -0.5, 0.0, 1e-300, 1e300, -1e300, 255, 65_536),
    *(2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**9),
    *(_HUGE, 10**40, math.nan, math.inf, -math.inf, 5 * 10**6),
)
_OTHERS = (None, True, False, [], {}, [[]], [None], {"": None}, [0], [-1], ["x"])


def _value(rng):
    return rng.choice(rng.choice((_TEXTS, _NUMBERS, _NUMBERS, _OTHERS, (_deep(rng),))))


def _deep(rng):
    value = rng.choice((1, "x", None))
    for _ in range(rng.choice((3, 50, 400))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _nodes(value):
    """Every container in a JSON value with each of its keys or indices."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key
            yield from _nodes(value[key])


def _change(rng, holder, key):
    """Changes one place of a JSON value."""
    before = holder[key]
    match rng.randrange(9):
        case 0:
            del holder[key]
        case 1 if isinstance(before, int | float):
            holder[key] = before * rng.choice((-1, 2, 10, 1_000, 0.5))
        case 2 if isinstance(before, int | float):
            holder[key] = before + rng.choice((-1, 1, 0.5))
        case 3:
            holder[key] = [before] * rng.choice((1, 2, 1_000))
        case 4 if isinstance(before, list) and before:
            before.append(rng.choice(before))
        case 5 if isinstance(holder, dict):
            holder[rng.choice(_TEXTS)] = holder.pop(key)
        case 6:
            holder[key] = str(before)[:1_000]
        case _:
            holder[key] = _value(rng)


def json_tree(rng, data):
    """Changes some places of a JSON file, most often one."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        nodes = list(_nodes(tree))
        if nodes:
            _change(rng, *rng.choice(nodes))
            tree = json.loads(json.dumps(tree))  # no value stands in two places
    if rng.random() < 0.02:
        tree = _value(rng)
    return json.dumps(tree).encode()


def json_text(rng, data):
    """What a JSON file can say that a tree cannot."""
    depth = rng.choice((100, 5_000, 100_000))
    first = data.find(b"{") + 1
    key = rng.choice(list(json.loads(data)) or ["a"])
    twice = json.dumps({key: rng.choice((0, "x", None))})[1:-1].encode() + b", "
    return rng.choice(
        (
            b"[" * depth,
            b"[" * depth + b"]" * depth,
            b'{"a":' * depth + b"1" + b"}" * depth,
            data[:first] + twice + data[first:],
            data[:first] + b'"a": ' + b"9" * depth + b", " + data[first:],
            data[:first] + b'"a": 1e99999, ' + data[first:],
            b"\xef\xbb\xbf" + data,
            data.decode().encode("utf-16"),
            b"[" + data + b"]",
            data + data,
            data.replace(b'"', b"'"),
            data.replace(b":", b"=", 1),
            json.dumps(_value(rng)).encode(),
        )
    )


def json_lines(rng, data):
    """Changes one line of several, or the lines."""
    lines = data.splitlines()
    index = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines.append(lines[index])
        case 1:
            lines[index] = b""
        case 2:
            lines[index] = json_text(rng, lines[index])
        case _:
            lines[index] = json_tree(rng, lines[index])
    return b"\n".join(lines) + b"\n"


JSON = (json_tree,) * 8 + (json_text, any_bytes)
JSON_LINES = (json_lines,) * 8 + (any_bytes,)

# === Safetensors ===

_DTYPES = "BOOL U8 I8 I16 U16 I32 U64 I64 F16 BF16 F64 C64 F8_E4M3 F4 Q8 x".split()


def _parts(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header, body):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def safetensors_header(rng, data):
    length = int.from_bytes(data[:8], "little")
    text = rng.choice((json_tree, json_tree, json_text))(rng, data[8 : 8 + length])
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def safetensors_entry(rng, data):
    """Another dtype, shape, name or place of one tensor, often a consistent one."""
    header, body = _parts(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    match rng.randrange(6):
        case 0:
            entry["dtype"] = rng.choice(_DTYPES)
        case 1:  # half as many values of twice the size, or the other way round
            entry["dtype"] = rng.choice(("F64", "I64", "C64"))
            entry["shape"] = [max(1, math.prod(entry["shape"]) // 2)]
        case 2:
            shape = entry["shape"]
            others = (shape[::-1], [math.prod(shape)], [1, *shape])
            entry["shape"] = rng.choice(others)
        case 3:
            moved = [n + rng.choice((-4, 4, 2**40)) for n in entry["data_offsets"]]
            entry["data_offsets"] = moved
        case 4:
            header[rng.choice((name + "x", *_TEXTS))] = header.pop(name)
        case 5:
            entry["data_offsets"] = entry["data_offsets"][::-1]
    return _joined(header, body)


def safetensors_values(rng, data):
    """NaN, infinity, huge and tiny values, or the values of integers."""
    header, body = _parts(data)
    body, start = bytearray(body), 0
    if len(body) >= 4:
        value = rng.choice((math.nan, math.inf, -math.inf, 3e38, 1e-40))
        count = rng.choice((1, 1, len(body) // 4))
        start = rng.randrange(len(body) // 4 - count + 1) * 4
        body[start : start + 4 * count] = struct.pack("<f", value) * count
    if rng.random() < 0.3:
        for entry in header.values():
            if entry.get("dtype") == "F32":
                entry["dtype"] = rng.choice(("I32", "U32"))
    return _joined(header, bytes(body))


SAFETENSORS = (
    *(safetensors_header, safetensors_entry, safetensors_entry, safetensors_values),
    any_bytes,
)

# === Zip archives ===


def _members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _archive(members, compression=zipfile.ZIP_STORED):
    """Writes an archive; a name may occur twice or be a `ZipInfo`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as made:
        warnings.simplefilter("ignore")
        for name, content in members:
            made.writestr(name, content)
    return buffer.getvalue()


def zip_members(rng, data):
    """Members twice, elsewhere, missing, as links, compressed, or huge."""
    members = _members(data)
    index = rng.randrange(len(members))
    name, content = members[index]
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    match rng.randrange(7):
        case 0:
            members.append((name, rng.choice((content, b"", content[::-1]))))
        case 1:
            start = rng.choice(("../", "/", "a\\", "C:"))
            members[index] = (start + name, content)
        case 2:
            del members[index]
        case 3:
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            members[index] = (link, b"/dev/zero")
        case 4:
            compression = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        case 5:
            members[index] = (name, content + bytes(rng.choice((100, 30_000_000))))
            compression = zipfile.ZIP_DEFLATED
        case 6:
            members += [(f"{name}{n}", b"") for n in range(1_000)]
    return _archive(members, compression)


def zip_content(change):
    """Changes the content of a member, with its checksum right."""

    def changed(rng, data):
        members = _members(data)
        index = rng.randrange(len(members))
        name, content = members[index]
        members[index] = name, change(rng, content)
        return _archive(members)

    return changed


def zip_headers(rng, data):
    """Lies in the directory: sizes, offsets, flags, methods, comments."""
    data = bytearray(data)
    mark = rng.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    places, place = [], data.find(mark)
    while place >= 0:
        places.append(place)
        place = data.find(mark, place + 1)
    if places:
        start = rng.choice(places) + rng.randrange(4, 46)
        size = rng.choice((1, 2, 4))
        lied = rng.choice(_LIES) % (1 << 8 * size)
        data[start : start + size] = lied.to_bytes(size, "little")
    return bytes(data)


# === NumPy's arrays ===

_DESCRIPTIONS = "|O <f8 <f4 <c16 <U4 |b1 <i8 >i2 |V8 <M8[s]".split()
_IMPORT = "__import__('os').system('touch canary')"
_SHAPES = ((), (0,), (2**40,), (2, 2**31), (-1,), (1,) * 40, (3, 0, 2**62), (7,))


def npy(rng, data):
    """Another header or body of an array."""
    if not data.startswith(b"\x93NUMPY"):
        return any_bytes(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    match rng.randrange(6):
        case 0:
            header = _numpy_header(descr=rng.choice(_DESCRIPTIONS))
        case 1:
            header = _numpy_header(shape=rng.choice(_SHAPES))
        case 2:
            header = rng.choice(("{}", "(" * 5_000, "1+" * 3_000, _IMPORT, ""))
        case 3:
            value = rng.choice((-1, 2**62, 10_000, 1_024))
            body = struct.pack("<q", value) * (len(body) // 8)
        case _:
            return any_bytes(rng, data)
    text = header.encode("latin-1", "replace") + b"\n"
    return data[:8] + len(text).to_bytes(2, "little") + text + body


def _numpy_header(descr="<i8", shape=(3,)):
    return repr({"descr": descr, "fortran_order": False, "shape": shape})


NPY = (npy,)
NPZ = (zip_content(npy), zip_content(npy), zip_members, zip_headers, any_bytes)

# === torch.save ===

# What a pickle of weights has no use for. Each would leave `canary` behind if run.
_RUN = ("touch canary",)
_CALLS = (
    torch.Call(torch.Name("os", "system"), _RUN),
    torch.Call(torch.Name("posix", "system"), _RUN),
    torch.Call(torch.Name("subprocess", "check_output"), (["touch", "canary"],)),
    torch.Call(torch.Name("builtins", "exec"), ("open('canary', 'w')",)),
    torch.Call(torch.Name("builtins", "open"), ("canary", "w")),
    torch.Call(torch.Name("torch.serialization", "load"), ("x",)),
    torch.Call(torch.Name("numpy", "load"), ("x", None, True)),
    torch.Raw(b"ios\nsystem\n" + b"(S'touch canary'\no"),
    torch.Raw(b"]" + b"(" * 50_000),
    torch.Raw(b"]" * 50_000),
    torch.Raw(b"]q\0" + b"(h\0h\0ej" * 1_000),
    torch.Raw(b"\x8b" + struct.pack("<i", 10_000) + b"\xff" * 10_000),
    torch.Raw(b"]q\0h\0a"),
    torch.Raw(b"X\xff\xff\xff\x7f"),
    {"model": torch.Call(torch.ORDERED_DICT, (), {"a": 1})},
)
_SHAPES_OF_SIX = (
    *({"shape": (2**40, 3)}, {"shape": (-1,), "strides": (1,)}, {"count": 2**40}),
    *({"strides": (2**60, 1)}, {"first": 2**62}, {"shape": (3, 2), "strides": (0, 0)}),
    *({"shape": (2**30,), "strides": (0,)}, {"shape": (6, 6)}, {"first": -1}),
    *({"shape": ("2", None)}, {"shape": (2.5, 1)}, {"strides": ()}, {"shape": ()}),
)


def torch_tree(rng):
    """A tree for a file of `torch.save` with something hostile in it."""
    if rng.random() < 0.5:
        return {"a": torch.six(), "b": rng.choice(_CALLS)}
    return {"a": torch.six(**rng.choice(_SHAPES_OF_SIX)), "b": torch.six()}


def pickle_code(rng, data):
    """Removes, repeats or moves whole instructions of a pickle."""
    try:
        places = [place for _, _, place in pickletools.genops(data)]
    except ValueError:
        return any_bytes(rng, data)
    ends = [*places[1:], len(data)]
    steps = [data[a:b] for a, b in zip(places, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 3))):
        index, other = rng.randrange(len(steps)), rng.randrange(len(steps))
        match rng.randrange(3):
            case 0:
                del steps[index]
            case 1:
                steps.insert(index, steps[other])
            case 2:
                steps[index], steps[other] = steps[other], steps[index]
        if not steps:
            break
    return b"".join(steps)


ZIP = (
    *(zip_content(pickle_code), zip_content(any_bytes)),
    *(zip_members, zip_headers, any_bytes),
)
PICKLE = (pickle_code, pickle_code, any_bytes)

# === Something else where a file belongs ===


def directory(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def nothing(path):
    path.symlink_to("/dev/null")


def loop(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to("../outside/nowhere")


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**31)


def missing(path):
    pass


PLACES = (directory, fifo, endless, nothing, loop, dangling, sparse, missing)
