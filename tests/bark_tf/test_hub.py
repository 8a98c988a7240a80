"""Files of a checkpoint: from a directory, and from a stand-in of the hub."""

import json
import os
import subprocess
import sys

import pytest

from bark_tf import hub as bark_hub

REPO = "toy/bark"
BIN = "pytorch_model.bin"
SAFE = "model.safetensors"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client sleeps between retries; the tests do not."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def write_shards(write, index=SAFE + ".index.json", names=("a.bin", "b.bin")):
    weight_map = {f"tensor.{number}": name for number, name in enumerate(names)}
    write(index, json.dumps({"metadata": {}, "weight_map": weight_map}).encode())
    for name in names:
        write(name, name.encode())


# === Directories ===


def test_directory_gives_its_file_without_network(tmp_path, hub):
    (tmp_path / "config.json").write_text("{}")
    assert bark_hub.find_file(tmp_path, "config.json") == tmp_path / "config.json"
    assert bark_hub.find_file(str(tmp_path), "config.json", revision="x").is_file()
    assert bark_hub.find_optional(tmp_path, "other.json") is None
    with pytest.raises(FileNotFoundError, match=r"has no file 'other\.json'"):
        bark_hub.find_file(tmp_path, "other.json")
    assert hub.requests == []


def test_directory_named_like_a_repository_wins(tmp_path, hub, monkeypatch):
    hub.write(REPO, "config.json", b"theirs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / REPO).mkdir(parents=True)
    (tmp_path / REPO / "config.json").write_text("ours")
    assert bark_hub.find_file(REPO, "config.json").read_text() == "ours"
    assert hub.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "./voice",
        "../voice",
        "/no/voice",
        "voice/",
        "~/voice",
        "a/b/c",
        r"a\b",
        "C:voice",
    ],
)
def test_missing_directory_is_never_a_request(path, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for find in (bark_hub.find_file, bark_hub.find_optional):
        with pytest.raises(FileNotFoundError, match="There is no directory"):
            find(path, "config.json")
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        bark_hub.find_weights(path)
    assert hub.requests == []


def test_missing_path_object_is_never_a_request(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no directory 'toy/bark'"):
        bark_hub.find_file((tmp_path / REPO).relative_to(tmp_path), "config.json")
    assert hub.requests == []


@pytest.mark.parametrize("repo_id", ["", "my voice", "a--b", "x.git", "-a", "a b/c"])
def test_invalid_id_is_a_clear_error(repo_id, hub):
    with pytest.raises(ValueError, match="Expected a directory that exists, or a rep"):
        bark_hub.find_file(repo_id, "config.json")
    assert hub.requests == []


def test_file_in_place_of_a_directory(tmp_path):
    (tmp_path / SAFE).touch()
    with pytest.raises(ValueError, match="Received: the file"):
        bark_hub.find_weights(tmp_path / SAFE)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", r"..\secret", "C:secret", "", "."]
)
def test_name_that_leaves_the_checkpoint_is_refused(name, tmp_path, hub):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_text("secret")
    for place in (tmp_path / "inside", REPO):
        with pytest.raises(ValueError, match="must be a relative path"):
            bark_hub.find_file(place, name)
    assert hub.requests == []


# === Downloads ===


def test_download_then_cache(hub, tmp_path):
    hub.write(REPO, "voices/v2/a.npy", b"content")
    path = bark_hub.find_file(REPO, "voices/v2/a.npy")
    assert path.read_bytes() == b"content"
    assert path.is_relative_to(tmp_path / "cache")
    assert bark_hub.find_file(REPO, "voices/v2/a.npy") == path
    assert len(hub.downloads("a.npy")) == 1


def test_only_what_is_asked_for_is_downloaded(hub):
    hub.write(REPO, "config.json", b"{}")
    hub.write(REPO, SAFE, b"weights")
    bark_hub.find_file(REPO, "config.json")
    assert [request.method for request in hub.requests] == ["HEAD", "GET"]
    assert hub.downloads("config.json")


def test_cache_dir(hub, tmp_path):
    hub.write(REPO, "config.json", b"{}")
    elsewhere = tmp_path / "elsewhere"
    path = bark_hub.find_file(REPO, "config.json", cache_dir=elsewhere)
    assert path.is_relative_to(elsewhere)
    hub.stop()
    assert bark_hub.find_file(REPO, "config.json", cache_dir=elsewhere) == path
    with pytest.raises(FileNotFoundError):
        bark_hub.find_file(REPO, "config.json", local_files_only=True)


@pytest.mark.parametrize("local_files_only", [False, True])
def test_cache_serves_when_the_hub_is_gone(hub, local_files_only):
    hub.write(REPO, "config.json", b"{}")
    path = bark_hub.find_file(REPO, "config.json")
    hub.stop()
    where = {"local_files_only": local_files_only}
    assert bark_hub.find_file(REPO, "config.json", **where) == path


def test_local_files_only_never_asks(hub):
    hub.write(REPO, "config.json", b"{}")
    with pytest.raises(FileNotFoundError, match="not in the local cache") as caught:
        bark_hub.find_file(REPO, "config.json", local_files_only=True)
    assert "local_files_only" in str(caught.value)
    assert bark_hub.find_optional(REPO, "config.json", local_files_only=True) is None
    with pytest.raises(FileNotFoundError, match="has no weights in the local cache"):
        bark_hub.find_weights(REPO, local_files_only=True)
    assert hub.requests == []


def test_offline_mode_is_local_files_only(hub, monkeypatch):
    hub.write(REPO, "config.json", b"{}")
    path = bark_hub.find_file(REPO, "config.json")
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert bark_hub.find_file(REPO, "config.json") == path
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
        bark_hub.find_file(REPO, SAFE)
    assert hub.requests == []


def test_revisions_have_their_own_content(hub):
    hub.write(REPO, "config.json", b"main")
    hub.write(REPO, "config.json", b"other", revision="other")
    paths = {
        revision: bark_hub.find_file(REPO, "config.json", revision=revision)
        for revision in (None, "other", hub.commit(REPO, "other"))
    }
    assert [path.read_bytes() for path in paths.values()] == [
        b"main",
        b"other",
        b"other",
    ]
    hub.stop()
    for revision, path in paths.items():
        where = {"revision": revision, "local_files_only": True}
        assert bark_hub.find_file(REPO, "config.json", **where) == path


def test_changed_branch_is_downloaded_again(hub):
    hub.write(REPO, "config.json", b"old")
    bark_hub.find_file(REPO, "config.json")
    hub.write(REPO, "config.json", b"new")
    assert bark_hub.find_file(REPO, "config.json").read_bytes() == b"new"


def test_other_process_by_environment(hub, tmp_path):
    """The library respects HF_ENDPOINT and HF_HOME, as every hub client does."""
    hub.write(REPO, "config.json", b"{}")
    code = f"from bark_tf import hub; print(hub.find_file({REPO!r}, 'config.json'))"
    environment = {**os.environ, **hub.environment(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "home"))
    assert done.stderr == ""
    assert hub.downloads("config.json")


# === Errors ===


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_file(hub):
    hub.write(REPO, "config.json", b"{}")
    with pytest.raises(FileNotFoundError) as caught:
        bark_hub.find_file(REPO, SAFE)
    assert SAFE in one_line(caught) and REPO in one_line(caught)
    assert bark_hub.find_optional(REPO, SAFE) is None


@pytest.mark.parametrize("find", [bark_hub.find_file, bark_hub.find_optional])
def test_unknown_repository(find, hub):
    with pytest.raises(ValueError, match="no repository") as caught:
        find("toy/none", "config.json")
    assert "token" in one_line(caught) and hub.url in one_line(caught)


@pytest.mark.parametrize("find", [bark_hub.find_file, bark_hub.find_optional])
def test_unknown_revision(find, hub):
    hub.write(REPO, "config.json", b"{}")
    with pytest.raises(ValueError, match="revision='nope'") as caught:
        find(REPO, "config.json", revision="nope")
    assert REPO in one_line(caught)


def test_private_repository_wants_its_token(hub):
    hub.write(REPO, "config.json", b"{}")
    hub.tokens[REPO] = "right"
    with pytest.raises(ValueError, match="token=") as caught:
        bark_hub.find_file(REPO, "config.json")
    one_line(caught)
    with pytest.raises(PermissionError, match="refused the token") as caught:
        bark_hub.find_file(REPO, "config.json", token="wrong")
    assert "wrong" not in one_line(caught)
    assert bark_hub.find_file(REPO, "config.json", token="right").is_file()


def test_token_true_without_a_login(hub):
    with pytest.raises(PermissionError, match="hf auth login") as caught:
        bark_hub.find_file(REPO, "config.json", token=True)
    one_line(caught)


@pytest.mark.parametrize("find", [bark_hub.find_file, bark_hub.find_optional])
def test_gated_repository(find, hub):
    hub.write(REPO, "config.json", b"{}")
    hub.gated.add(REPO)
    with pytest.raises(PermissionError, match=f"Ask for access at {hub.url}") as caught:
        find(REPO, "config.json")
    assert "token" in one_line(caught)


@pytest.mark.parametrize("find", [bark_hub.find_file, bark_hub.find_optional])
def test_hub_out_of_reach_is_not_a_missing_file(find, hub):
    hub.write(REPO, "config.json", b"{}")
    hub.stop()
    with pytest.raises(ConnectionError, match="cannot be reached") as caught:
        find(REPO, "config.json")
    assert hub.url in one_line(caught) and "connection" in one_line(caught)


def test_hub_in_trouble(hub):
    hub.write(REPO, "config.json", b"{}")
    hub.status = 503
    with pytest.raises(
        ConnectionError, match=r"Could not read 'config\.json'"
    ) as caught:
        bark_hub.find_file(REPO, "config.json")
    one_line(caught)


def test_lacking_file_needs_no_network_once_known(hub, monkeypatch):
    """Without our check, the client retries for 23 seconds per such file."""
    hub.write(REPO, BIN, b"weights")
    path = bark_hub.find_weights(REPO)
    hub.stop()
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("a retry"))
    assert bark_hub.find_weights(REPO) == path
    assert bark_hub.find_optional(REPO, SAFE) is None


def test_lacking_file_that_appears_is_found(hub):
    hub.write(REPO, "config.json", b"{}")
    assert bark_hub.find_optional(REPO, SAFE) is None
    hub.write(REPO, SAFE, b"weights")
    assert bark_hub.find_optional(REPO, SAFE).read_bytes() == b"weights"


def cached_files(tmp_path):
    cache = tmp_path / "cache"
    return [p for p in cache.rglob("*") if p.is_file() and "snapshots" in p.parts]


def test_broken_download_goes_on_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(range(256)) * 100
    hub.write(REPO, SAFE, content)
    hub.drop(10_500)
    assert bark_hub.find_file(REPO, SAFE).read_bytes() == content
    ranges = [request.headers.get("range") for request in hub.downloads(SAFE)]
    assert ranges == [None, "bytes=10000-"]


def test_download_that_keeps_breaking_leaves_nothing_behind(hub, tmp_path):
    content = bytes(1000)
    hub.write(REPO, SAFE, content)
    hub.drop(500, times=100)
    with pytest.raises(ConnectionError, match="Could not read") as caught:
        bark_hub.find_file(REPO, SAFE)
    assert SAFE in one_line(caught)
    assert cached_files(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        bark_hub.find_file(REPO, SAFE, local_files_only=True)
    hub.drop(0, times=0)
    assert bark_hub.find_file(REPO, SAFE).read_bytes() == content


# === Weights ===


@pytest.fixture(params=["directory", "hub"])
def place(request, tmp_path, hub):
    """(what to pass as `path_or_id`, how to write a file there)."""
    if request.param == "hub":
        return REPO, lambda name, content: hub.write(REPO, name, content)
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    return directory, lambda name, content: (directory / name).write_bytes(content)


def test_weights_without_pickle_are_preferred(place):
    path_or_id, write = place
    found = []
    for name in reversed(bark_hub.WEIGHTS_NAMES):
        if name.endswith(".index.json"):
            write_shards(write, name)
        else:
            write(name, b"weights")
        found.append(bark_hub.find_weights(path_or_id).name)
    assert found == [
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "model.safetensors",
    ]


def test_only_bin(place):
    path_or_id, write = place
    write(BIN, b"weights")
    assert bark_hub.find_weights(path_or_id).read_bytes() == b"weights"


def test_shards_come_beside_their_index(place, hub):
    path_or_id, write = place
    write_shards(write)
    path = bark_hub.find_weights(path_or_id)
    assert path.name == SAFE + ".index.json"
    assert [path.with_name(n).read_bytes() for n in ("a.bin", "b.bin")] == [
        b"a.bin",
        b"b.bin",
    ]
    hub.stop()
    assert bark_hub.find_weights(path_or_id, local_files_only=True) == path


def test_weights_in_a_subfolder(place, hub):
    """All shards come from the commit of the index, whose folder is further up."""
    path_or_id, write = place
    if path_or_id != REPO:
        (path_or_id / "deep" / "er").mkdir(parents=True)
    write_shards(lambda name, content: write(f"deep/er/{name}", content))
    path = bark_hub.find_weights(path_or_id, subfolder="deep/er")
    assert path.with_name("b.bin").read_bytes() == b"b.bin"
    with pytest.raises(FileNotFoundError, match="has no weights"):
        bark_hub.find_weights(path_or_id)


def test_missing_shard(place):
    path_or_id, write = place
    write(
        SAFE + ".index.json",
        b'{"weight_map": {"x": "model-00001-of-00002.safetensors"}}',
    )
    with pytest.raises(FileNotFoundError, match="model-00001-of-00002"):
        bark_hub.find_weights(path_or_id)


def test_no_weights(place):
    path_or_id, write = place
    write("config.json", b"{}")
    with pytest.raises(FileNotFoundError, match=r"has no weights\. Expected one of"):
        bark_hub.find_weights(path_or_id)


@pytest.mark.parametrize("shard", ["../../secret", "/etc/passwd", r"..\secret"])
def test_index_that_leaves_the_directory_is_refused(shard, place, tmp_path, hub):
    path_or_id, write = place
    (tmp_path / "secret").write_text("secret")
    write(
        SAFE + ".index.json",
        json.dumps({"weight_map": {"x": "a.bin", "y": shard}}).encode(),
    )
    write("a.bin", b"")
    with pytest.raises(ValueError, match=r"A file in .*index\.json must be a relative"):
        bark_hub.find_weights(path_or_id)
    assert not hub.downloads("a.bin")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"weight_map": ["a"]}', b'{"weight_map": {"a": 1}}'],
)
def test_damaged_index(content, tmp_path):
    (tmp_path / (SAFE + ".index.json")).write_bytes(content)
    with pytest.raises(ValueError, match=r"index\.json .*(JSON|`weight_map`)"):
        bark_hub.find_weights(tmp_path)


def test_shards_are_of_the_commit_of_the_index(hub, monkeypatch):
    """Bug: the branch moves in between, and old and new weights mix."""
    write_shards(lambda name, content: hub.write(REPO, name, content))
    read_names = bark_hub.shard_names

    def branch_moves_now(index):
        hub.write(REPO, "b.bin", b"of another commit")
        return read_names(index)

    monkeypatch.setattr(bark_hub, "shard_names", branch_moves_now)
    with pytest.raises(ValueError, match="no branch, tag or commit"):
        bark_hub.find_weights(REPO)


# === Uploads ===


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "checkpoint"
    (directory / "voices").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "README.md").write_text("# A voice")
    (directory / "voices" / "a.npy").write_bytes(b"voice")
    (directory / SAFE).write_bytes(bytes(range(256)) * 50)
    return directory


def contents(files):
    return {name: path.read_bytes() for name, path in files.items()}


def test_push_round_trip(hub, checkpoint):
    url = bark_hub.push_folder(checkpoint, "me/voice", commit_message="First take")
    assert url == f"{hub.url}/me/voice/commit/{hub.commit('me/voice')}"
    assert hub.commit_messages == ["First take"]
    assert sorted(hub.files("me/voice")) == [
        "README.md",
        "config.json",
        SAFE,
        "voices/a.npy",
    ]
    for name in hub.files("me/voice"):
        found = bark_hub.find_file("me/voice", name)
        assert found.read_bytes() == (checkpoint / name).read_bytes()


def test_push_again_to_a_branch(hub, checkpoint):
    bark_hub.push_folder(checkpoint, "me/voice")
    first = contents(hub.files("me/voice"))
    (checkpoint / "config.json").write_text('{"new": 1}')
    for _ in range(2):
        bark_hub.push_folder(checkpoint, "me/voice", revision="better")
    assert contents(hub.files("me/voice")) == first
    found = bark_hub.find_file("me/voice", "config.json", revision="better")
    assert found.read_text() == '{"new": 1}'


def test_push_saved(hub):
    def save(directory):
        (directory / "config.json").write_text("saved")

    bark_hub.push_saved(save, "me/voice", private=True)
    assert contents(hub.files("me/voice")) == {"config.json": b"saved"}


def test_push_without_the_right_to_write(hub, checkpoint):
    hub.write(REPO, "config.json", b"theirs")
    hub.tokens[REPO] = "right"
    with pytest.raises(PermissionError, match="refused the token") as caught:
        bark_hub.push_folder(checkpoint, REPO, token="wrong")
    one_line(caught)
    assert contents(hub.files(REPO)) == {"config.json": b"theirs"}
    bark_hub.push_folder(checkpoint, REPO, token="right")
    assert SAFE in hub.files(REPO)


def test_push_of_nothing(hub, tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        bark_hub.push_folder(tmp_path / "none", "me/voice")
    with pytest.raises(ValueError, match="my voice"):
        bark_hub.push_folder(checkpoint, "my voice")
    assert hub.requests == []


def test_push_out_of_reach(hub, checkpoint):
    hub.stop()
    with pytest.raises(
        ConnectionError, match="Could not upload to 'me/voice'"
    ) as caught:
        bark_hub.push_folder(checkpoint, "me/voice")
    one_line(caught)


# === The stand-in ===


def test_standin_lists_like_a_hub(hub):
    import huggingface_hub

    hub.write(REPO, "config.json", b"{}")
    hub.write(REPO, "voices/a.npy", b"")
    client = huggingface_hub.HfApi()
    assert sorted(client.list_repo_files(REPO)) == ["config.json", "voices/a.npy"]
    assert client.model_info(REPO, revision="main").sha == hub.commit(REPO)
