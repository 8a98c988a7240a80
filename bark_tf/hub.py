"""Finding a checkpoint's files, in a directory or on the Hugging Face hub.

This module knows the names of files, not their contents, except for the list of shards
in an index. A directory never needs the network, and only the requested files of a
repository are downloaded.

Every error is one line that says what to do:

- `FileNotFoundError`: no such directory, or the checkpoint lacks the file;
- `ValueError`: an invalid name, an unknown repository or revision;
- `PermissionError`: the hub requires another access token;
- `ConnectionError`: the hub cannot be reached, or the connection was lost.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from bark_tf._version import __version__
from bark_tf.files import check_relative, local_path, read_json_object, remote_scheme
from bark_tf.saving import OWN_NAMES, settle

# The small checkpoint in the package.
# Names the model of `bark_tf.speak` and of the commands that are given none.
MODEL_VARIABLE = "BARK_TF_MODEL"
SHIPPED_CHECKPOINT = Path(__file__).with_name("assets")
ABOUT_SHIPPED = (
    "using the small English voice that comes with bark-tf; the full Bark is "
    "suno/bark-small (a download of 1.7 GB) or suno/bark"
)
INDEX_SUFFIX = ".index.json"
# In order of preference: files without pickle come first.
WEIGHTS_NAMES = (
    "model.safetensors",
    "model.safetensors" + INDEX_SUFFIX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX_SUFFIX,
)
_LOG_IN = "pass it as token=, or log in with `hf auth login`"


class _FileMissingError(FileNotFoundError):
    """The checkpoint exists and lacks the file."""


# === Finding ===


@functools.cache
def shipped_checkpoint() -> Path:
    """Returns the directory of the small checkpoint; logs once what it is."""
    logging.getLogger(__name__).warning("%s", ABOUT_SHIPPED)
    return SHIPPED_CHECKPOINT


def find_file(
    path_or_id: str | os.PathLike,
    name: str,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Finds one file of a checkpoint, and downloads it if needed.

    Args:
        path_or_id: A directory, or a repository id such as `"suno/bark-small"`.
        name: The file, relative to the checkpoint, with forward slashes.
        subfolder: Folder of the checkpoint inside the directory or repository.
        revision: Branch, tag or commit of the repository; `"main"` by default.
        cache_dir: Where downloads are kept; the hub's own cache by default.
        token: Access token; None: that of `hf auth login`, if any; False: none.
        local_files_only: Never use the network.

    Returns:
        The path of the complete file.

    Raises:
        FileNotFoundError: If there is no such directory or file.
        ValueError: If `path_or_id` or `name` is invalid, or the repository or its
            revision does not exist.
        PermissionError: If the hub requires another token.
        ConnectionError: If the hub cannot be reached and the file is not in the cache.
    """
    check_relative(name, "A checkpoint's file")
    if subfolder:
        check_relative(subfolder, "subfolder")
        name = PurePosixPath(subfolder, name).as_posix()
    directory = _as_directory(path_or_id)
    if directory is not None:
        path = directory / name
        settle(directory / (subfolder or ""))
        if not os.path.isfile(path):
            raise _FileMissingError(f"{str(directory)!r} has no file {name!r}")
        return path
    if cache_dir is not None:
        cache_dir = Path(cache_dir).expanduser()
    at = {"revision": revision, "cache_dir": cache_dir}
    if local_files_only or _is_offline():
        return _find_in_cache(str(path_or_id), name, **at)
    return _download(str(path_or_id), name, token, **at)


def find_optional(
    path_or_id: str | os.PathLike, name: str, **where: Any
) -> Path | None:
    """Like `find_file`, but returns None if the checkpoint exists and lacks the file.

    With `local_files_only`, a file that is not in the cache counts as missing. Without,
    a hub that cannot be reached is an error, never a missing file.
    """
    try:
        return find_file(path_or_id, name, **where)
    except _FileMissingError:
        return None


def find_weights(path_or_id: str | os.PathLike, **where: Any) -> Path:
    """Finds a checkpoint's weights under any of the usual names.

    Args:
        path_or_id: A directory, or a repository id.
        **where: The keywords of `find_file`.

    Returns:
        The path of the first of `WEIGHTS_NAMES` that exists: a single file, or an index
        with all its shards beside it.

    Raises:
        FileNotFoundError: If there are no weights, or a shard is missing.
        ValueError: As `find_file`, or if the index is damaged or names a file outside
            the checkpoint.
    """
    for name in WEIGHTS_NAMES:
        path = find_optional(path_or_id, name, **where)
        if path is not None:
            break
    else:
        is_local = where.get("local_files_only") or _is_offline()
        place = " in the local cache" if is_local else ""
        raise FileNotFoundError(
            f"{str(path_or_id)!r} has no weights{place}. "
            f"Expected one of: {', '.join(WEIGHTS_NAMES)}"
        )
    if name.endswith(INDEX_SUFFIX):
        # The cache has a directory for each commit, named after it. All shards must be
        # from the commit of the index, even if the branch has moved since.
        depth = len(PurePosixPath(where.get("subfolder") or "").parts)
        commit = path.parents[depth].name
        for shard in shard_names(path):
            find_file(path_or_id, shard, **{**where, "revision": commit})
    return path


def shard_names(index: str | os.PathLike) -> list[str]:
    """Lists the files in an index of sharded weights, sorted, each once.

    Raises:
        ValueError: If the file is not an index, or names a file outside its directory.
    """
    weight_map = read_json_object(index).get("weight_map")
    is_map = isinstance(weight_map, dict) and weight_map
    if not is_map or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(
            f"{index} must hold a `weight_map` of tensor to file. "
            f"Received: {str(weight_map)[:80]}"
        )
    names = sorted({*weight_map.values()})
    for name in names:
        check_relative(name, f"A file in {index}")
    return names


def _as_directory(path_or_id: str | os.PathLike) -> Path | None:
    """Returns the directory, or None for a repository id."""
    if remote_scheme(path_or_id) or os.fspath(path_or_id).startswith("file:"):
        path_or_id = local_path(path_or_id, "A checkpoint")
    text = os.fspath(path_or_id)
    # Unlike the methods of `Path`, these say False for a name that is too long.
    if os.path.isdir(text):
        return Path(text)
    if os.path.exists(text):
        raise ValueError(
            f"Expected a directory or a repository id. Received: the file {text!r}"
        )
    if not isinstance(path_or_id, str) or _looks_like_path(text):
        raise FileNotFoundError(f"There is no directory {text!r}")
    _check_repository_id(text)
    return None


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith((".", "~", "/"))
        or text.endswith("/")
        or text.count("/") > 1
        or "\\" in text
        or bool(PureWindowsPath(text).drive)
    )


def _check_repository_id(repo_id: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            "Expected a directory that exists, or a repository id such as "
            f"'suno/bark-small'. Received: {repo_id!r} ({error})"
        ) from error


# === The hub ===


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _client(token: str | bool | None):
    import huggingface_hub

    return huggingface_hub.HfApi(
        token=token, library_name="bark-tf", library_version=__version__
    )


def _find_in_cache(repo_id: str, name: str, **at: Any) -> Path:
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repo_id, name, **at)
    if not isinstance(found, str):
        raise _FileMissingError(
            f"{name!r} of {repo_id!r} is not in the local cache, and downloads are "
            "off: load it once without local_files_only and HF_HUB_OFFLINE"
        )
    return Path(found)


def _download(repo_id: str, name: str, token: str | bool | None, **at: Any) -> Path:
    client = _client(token)
    with _clear_errors(
        client, repo_id, f"read {name!r} of {repo_id!r}", at["revision"]
    ):
        if _is_known_to_lack(client, repo_id, name, **at):
            raise _FileMissingError(f"{repo_id!r} has no file {name!r}")
        return Path(client.hf_hub_download(repo_id, name, **at))


def _is_known_to_lack(client, repo_id: str, name: str, **at: Any) -> bool:
    """Whether the file was missing before, and the hub does not say otherwise now.

    Without this check, a missing file costs 20 seconds of retries without a network.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repo_id, name, **at)
    if cached is not huggingface_hub._CACHED_NO_EXIST:
        return False
    try:
        return not client.file_exists(repo_id, name, revision=at["revision"])
    except (OSError, _http_error()):
        return True


def _http_error() -> type[Exception]:
    """Returns the error of the hub's HTTP library: requests, httpx or httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


@contextlib.contextmanager
def _clear_errors(
    client, repo_id: str, action: str, revision: str | None
) -> Iterator[None]:
    """Turns errors of huggingface_hub into one line that says what to do.

    Args:
        client: The `HfApi` in use.
        repo_id: The repository.
        action: What is being done, for "Could not ...".
        revision: The requested revision.
    """
    from huggingface_hub import errors

    try:
        yield
    except _FileMissingError:
        raise
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"Could not {action}: {client.endpoint} cannot be reached and the file is "
            "not in the local cache. Check the connection and try again"
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise PermissionError(
            f"Could not {action}: token=True needs a login, `hf auth login`"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"Could not {action}: the repository is gated. Ask for access at "
            f"{client.endpoint}/{repo_id}, then give your token: {_LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no directory {repo_id!r}, and at {client.endpoint} no "
            "repository of that name that you may read. If it is private, give its "
            f"token: {_LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"Could not {action}: there is no branch, tag or commit of that name. "
            f"Received: revision={revision!r}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise _FileMissingError(f"Could not {action}: no such file") from error
    except (OSError, RuntimeError, _http_error()) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, which is clear
        raise _explain(error, client, action) from error


def _explain(error: Exception, client, action: str) -> Exception:
    """Makes the error for an HTTP status or a lost connection."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return PermissionError(
            f"Could not {action}: {client.endpoint} refused the token ({status}). "
            f"Get one with the right to, and {_LOG_IN}"
        )
    reason = f"it answered {status}" if status else str(error).partition("\n")[0]
    return ConnectionError(
        f"Could not {action} at {client.endpoint}: {reason.rstrip('.')}. Try again"
    )


def push_folder(
    directory: str | os.PathLike,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
) -> str:
    """Uploads a directory to a hub repository, which is created if missing.

    Args:
        directory: What to upload, including its folders.
        repo_id: The repository, such as `"me/my-voice"`.
        token: Access token with write permission; None: that of `hf auth login`.
        private: Whether a new repository is private; None: the account's default.
        commit_message: First line of the commit message.
        revision: Branch, created if missing; `"main"` by default.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If `repo_id` is not a valid id.
        PermissionError: If the token has no write permission there.
        ConnectionError: If the hub cannot be reached.
    """
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"There is no directory {str(directory)!r}")
    _check_repository_id(repo_id)
    settle(directory)
    client = _client(token)
    with _clear_errors(client, repo_id, f"upload to {repo_id!r}", revision):
        repo_id = client.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            client.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            ignore_patterns=[
                f"{start}{name}{end}"
                for name in OWN_NAMES
                for start in ("", "*/")
                for end in ("", "/*")
            ],
            revision=revision,
            commit_message=commit_message or "Upload with bark-tf",
        )
    return str(commit.commit_url)


def push_saved(save: Callable[[Path], Any], repo_id: str, **kwargs: Any) -> str:
    """Uploads what `save(directory)` writes, with the keywords of `push_folder`."""
    with tempfile.TemporaryDirectory(prefix="bark-tf-") as directory:
        save(Path(directory))
        return push_folder(directory, repo_id, **kwargs)
