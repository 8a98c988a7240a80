"""What all configurations share: checked fields, JSON files in both directions."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bark_tf import hub
from bark_tf.files import atomic_write

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"


def _plain(value: Any) -> Any:
    """Turns nested configs and tuples into what JSON holds."""
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class Config:
    """What every configuration can do: dictionaries, files, checks, copies."""

    model_type: ClassVar[str] = ""
    aliases: ClassVar[Mapping[str, str]] = {}
    file_name: ClassVar[str] = CONFIG_NAME

    extra: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self):
        self._check()

    def _check(self) -> None:
        """Raises ValueError for values that no model can have."""

    def _require(self, claim: bool, name: str, expected: str) -> None:
        if not claim:
            raise ValueError(
                f"{type(self).__name__}.{name} must be {expected}. "
                f"Received: {name}={getattr(self, name)!r}"
            )

    def _require_whole(self, *names: str, minimum: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            self._require(
                whole and value >= minimum,
                name,
                f"a whole number of at least {minimum}",
            )

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields, without `extra`."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "extra")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any):
        """Builds the configuration from a dictionary such as a parsed JSON file.

        Args:
            values: Field values; other keys are kept in `extra`.
            **overrides: Fields that win over `values`. A name that is not a field is
                refused.

        Returns:
            The configuration.

        Raises:
            ValueError: For a value out of range or an unknown name in `overrides`.
        """
        names = cls.field_names()
        overrides = {
            cls.aliases.get(key, key): value for key, value in overrides.items()
        }
        unknown = [key for key in overrides if key not in names]
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no field {unknown[0]!r}. "
                f"It has: {', '.join(names)}"
            )
        known, extra = {}, {}
        for key, value in values.items():
            name = cls.aliases.get(key, key)
            if name in names:
                known[name] = tuple(value) if isinstance(value, list) else value
            elif key not in ("model_type", "extra"):
                extra[key] = value
        return cls(**{**known, **overrides}, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The fields, the kept extra keys and `model_type`, as JSON would hold them."""
        values = {name: _plain(getattr(self, name)) for name in self.field_names()}
        return {**_plain(self.extra), **values, "model_type": self.model_type}

    def replace(self, **changes: Any):
        """A copy with some fields changed; unknown names are a ValueError."""
        unknown = [name for name in changes if name not in self.field_names()]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no field {unknown[0]!r}. "
                f"It has: {', '.join(self.field_names())}"
            )
        return dataclasses.replace(self, **changes)

    @classmethod
    def _select(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Picks this configuration's own block out of a file's content."""
        return values

    @classmethod
    def from_json_file(cls, path: str | os.PathLike, **overrides: Any):
        """Reads the configuration from a JSON file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a JSON object or that of another kind of
                model, or a value is out of range.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(
                f"{path} must hold a JSON object. Received: {type(values).__name__}"
            )
        values = cls._select(values)
        kind = values.get("model_type") or cls.model_type
        if cls.file_name == CONFIG_NAME and kind != cls.model_type:
            raise ValueError(
                f"{path} must have the model_type {cls.model_type!r}. "
                f"Received: {kind!r}"
            )
        return cls.from_dict(values, **overrides)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ):
        """Reads the configuration of a checkpoint directory or hub repository.

        Args:
            path_or_id: A directory, or a repository id such as `"suno/bark-small"`.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept; the hub's own cache by default.
            token: Access token for private repositories.
            local_files_only: Never ask the network.
            **overrides: Fields to change.

        Returns:
            The configuration. A sub-model's class finds its own block in the file of
            a whole Bark.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If the file holds something else.
        """
        path = hub.find_file(
            path_or_id,
            cls.file_name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.from_json_file(path, **overrides)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes the JSON file into `directory`, which is made if missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with atomic_write(Path(directory) / self.file_name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def nested(cls: type[Config], value: Any, owner: str, name: str) -> Config:
    """Accepts None, a dictionary or a configuration for a nested block."""
    if value is None:
        return cls()
    if isinstance(value, cls):
        return value
    if isinstance(value, Mapping):
        return cls.from_dict(value)
    raise ValueError(
        f"{owner}.{name} must be None, a dict or a {cls.__name__}. "
        f"Received: {type(value).__name__}"
    )
