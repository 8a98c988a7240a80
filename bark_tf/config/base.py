"""What all configurations share: checked fields, JSON files in both directions."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bark_tf import hub
from bark_tf.files import atomic_write, read_json_object

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"

# === Checks ===


def check_field(owner: Any, name: str, is_right: bool, expected: str) -> None:
    """Raises an error that names a field if its value is wrong.

    Args:
        owner: The object that has the field, such as a dataclass.
        name: The field.
        is_right: Whether the value is right.
        expected: What the value must be, such as `"at least 1"`.

    Raises:
        ValueError: If not `is_right`.

    Example:
        >>> check_field(options, "steps", options.steps >= 1, "at least 1")
        ValueError: TrainingOptions.steps must be at least 1. Received: steps=0
    """
    if not is_right:
        raise ValueError(
            f"{type(owner).__name__}.{name} must be {expected}. "
            f"Received: {name}={getattr(owner, name)!r}"
        )


def check_whole(owner: Any, *names: str, minimum: int = 1) -> None:
    """Raises ValueError unless all these fields are integers of at least `minimum`."""
    for name in names:
        value = getattr(owner, name)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        is_right = is_whole and value >= minimum
        check_field(owner, name, is_right, f"a whole number of at least {minimum}")


# === Configurations ===


def _plain(value: Any) -> Any:
    """Turns nested configurations and tuples into JSON types."""
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class Config:
    """Base class: a frozen dataclass that reads and writes Hugging Face's JSON files.

    Field names and defaults are those of Hugging Face, so a file written by either
    library opens in the other.

    Args:
        extra: Keys of the file that are not fields. They are written back.
    """

    model_type: ClassVar[str] = ""
    file_name: ClassVar[str] = CONFIG_NAME
    # Key of this configuration inside the file of a whole Bark.
    part: ClassVar[str] = ""
    # The configurations nested in this one.
    parts: ClassVar[tuple[type[Config], ...]] = ()
    # Other names of fields in files -> ours.
    aliases: ClassVar[Mapping[str, str]] = {}

    extra: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self):
        for name in self.field_names():
            if isinstance(getattr(self, name), list):
                self._set(name, tuple(getattr(self, name)))
        for cls in self.parts:
            self._set(cls.part, self._as_part(cls, getattr(self, cls.part)))
        self._check()

    def _set(self, name: str, value: Any) -> None:
        """Sets a field of the frozen dataclass during `__post_init__`."""
        object.__setattr__(self, name, value)

    def _as_part(self, cls: type[Config], value: Any) -> Config:
        """Takes None, a dictionary or a configuration for a nested one."""
        if value is None:
            return cls()
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        expected = f"None, a dict or a {cls.__name__}"
        check_field(self, cls.part, isinstance(value, cls), expected)
        return value

    def _check(self) -> None:
        """Raises ValueError if a field is out of range."""

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields, without `extra`."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "extra")

    @classmethod
    def _check_names(cls, names: Mapping[str, Any]) -> None:
        for name in names:
            if name not in cls.field_names():
                raise ValueError(
                    f"{cls.__name__} has no field {name!r}. "
                    f"It has: {', '.join(cls.field_names())}"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any):
        """Builds the configuration from a dictionary such as a parsed JSON file.

        Args:
            values: Field values; other keys go to `extra`.
            **overrides: Fields that replace those in `values`.

        Returns:
            The configuration.

        Raises:
            ValueError: If a value is out of range or `overrides` has an unknown name.
        """
        overrides = {cls.aliases.get(key, key): overrides[key] for key in overrides}
        cls._check_names(overrides)
        known, extra = {}, {}
        for key, value in values.items():
            name = cls.aliases.get(key, key)
            if name in cls.field_names():
                known[name] = value
            elif key not in ("model_type", "extra"):
                extra[key] = value
        return cls(**{**known, **overrides}, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The fields, the extra keys and `model_type`, in JSON types."""
        values = {name: _plain(getattr(self, name)) for name in self.field_names()}
        return {**_plain(self.extra), **values, "model_type": self.model_type}

    def replace(self, **changes: Any):
        """Returns a copy with some fields changed.

        Raises:
            ValueError: If a name is unknown or a value is out of range.
        """
        self._check_names(changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike, **overrides: Any):
        """Reads the configuration from a JSON file.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not a JSON object or belongs to another kind of
                model, or a value is out of range.
        """
        values = read_json_object(path)
        values = values.get(cls.part) or values
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
            local_files_only: Whether to use only files that are already here.
            **overrides: Fields to change.

        Returns:
            The configuration. A sub-model's class reads its own block of a whole
            Bark's file.

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
        """Writes the JSON file into `directory`, which is created if missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with atomic_write(Path(directory) / self.file_name) as temporary:
            temporary.write_text(text, encoding="utf-8")
