"""What all configurations share: checked fields, JSON files in both directions."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NoReturn,
    Self,
    TypeVar,
    dataclass_transform,
)

import numpy as np

from bark_tf import hub
from bark_tf.config.fields import check_field, check_fields, check_values, shown
from bark_tf.files import local_path, read_json_object
from bark_tf.habits import accepts_habits
from bark_tf.saving import saving
from bark_tf.suggestions import did_you_mean

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"

# === Configurations ===

_Class = TypeVar("_Class", bound=type)
# As similar as "hiden_size" is to "hidden_size", and no other name of transformers to
# one of ours.
_TYPO = 0.92


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen_config(cls: _Class) -> _Class:
    """Makes a subclass of `Config` a frozen dataclass that takes any keyword.

    A keyword that is no field goes to `extra`, as in transformers, unless it looks like
    a typo of a field.
    """
    cls = dataclasses.dataclass(frozen=True, repr=False)(cls)
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self, *args, **keywords):
        construct(self, *args, **cls._sorted(keywords))

    cls.__init__ = __init__
    cls.__setattr__ = cls.__delattr__ = cls._refuse_change
    return cls


def _plain(value: Any) -> Any:
    """Turns nested configurations and tuples into JSON types."""
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


@frozen_config
class Config:
    """Base class: a frozen dataclass that reads and writes Hugging Face's JSON files.

    Field names and defaults are those of Hugging Face, so a file written by either
    library opens in the other. Other names of fields in transformers, such as
    `num_hidden_layers`, work as keywords and attributes too.

    Args:
        extra: Keys of the file and keywords that are not fields. They are written back,
            and are attributes too.

    Raises:
        ValueError: If a keyword looks like a typo of a field.
        dataclasses.FrozenInstanceError: For an assignment; `replace` makes a changed
            copy.
    """

    model_type: ClassVar[str] = ""
    file_name: ClassVar[str] = CONFIG_NAME
    # Key of this configuration inside the file of a whole Bark.
    part: ClassVar[str] = ""
    # The configurations nested in this one.
    parts: ClassVar[tuple[type[Config], ...]] = ()
    # Other names of fields -> ours.
    aliases: ClassVar[Mapping[str, str]] = {}

    extra: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                self._set(field.name, tuple(value))
            elif getattr(value, "shape", None) == ():  # a number of NumPy or TensorFlow
                self._set(field.name, np.asarray(value).item())
        check_fields(self)
        for cls in self.parts:
            self._set(cls.part, self._as_part(cls, getattr(self, cls.part)))
        self._check()

    def __repr__(self) -> str:
        """The call that makes an equal configuration, without default values."""
        default = type(self)()
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name in self.field_names()
            if getattr(self, name) != getattr(default, name)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

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

    def _refuse_change(self, name: str, value: Any = None) -> NoReturn:
        """Takes the place of `__setattr__` and `__delattr__`."""
        raise dataclasses.FrozenInstanceError(
            f"A {type(self).__name__} does not change: make a changed copy with "
            f"`config.replace({name}=...)`"
        )

    def update(self, values: Mapping[str, Any]) -> NoReturn:
        """Raises `dataclasses.FrozenInstanceError`; see `replace`."""
        self._refuse_change(next(iter(values), "field"))

    if not TYPE_CHECKING:  # a type checker would take it for an attribute of any name

        def __getattr__(self, name: str) -> Any:
            if name in type(self).aliases:
                return getattr(self, type(self).aliases[name])
            if name in vars(self).get("extra", ()):
                return self.extra[name]
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields, without `extra`."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "extra")

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of fields under our names; refuses other names."""
        values = {cls.aliases.get(name, name): values[name] for name in values}
        for name in values:
            if name not in (*cls.field_names(), "extra"):
                raise ValueError(
                    f"{cls.__name__} has no field {name!r}."
                    f"{did_you_mean(name, cls.field_names())} "
                    f"It has: {', '.join(cls.field_names())}"
                )
        return values

    @classmethod
    def _sorted(
        cls, values: Mapping[str, Any], *, may_have_typos: bool = True
    ) -> dict[str, Any]:
        """Values of fields under our names, and all others in `extra`."""
        known = {}
        extra = dict(values.get("extra", {}))
        for key, value in values.items():
            name = cls.aliases.get(key, key)
            if name in cls.field_names():
                known[name] = value
            elif key not in ("model_type", "extra"):
                extra[key] = value
                similar = difflib.get_close_matches(key, cls.field_names(), 1, _TYPO)
                if may_have_typos and similar:
                    raise ValueError(
                        f"{cls.__name__} has no field {key!r}. "
                        f"Did you mean {similar[0]!r}?"
                    )
        return {**known, "extra": extra}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Builds the configuration from a dictionary such as a parsed JSON file.

        Args:
            values: Field values; other keys go to `extra`.
            **overrides: Fields that replace those in `values`.

        Returns:
            The configuration.

        Raises:
            ValueError: If a value is out of range or `overrides` has an unknown name.
        """
        known = cls._sorted({**values, "extra": {}}, may_have_typos=False)
        return cls(**{**known, **cls._checked(overrides)})

    def to_dict(self) -> dict[str, Any]:
        """The fields, the extra keys and `model_type`, in JSON types."""
        values = {name: _plain(getattr(self, name)) for name in self.field_names()}
        return {**_plain(self.extra), **values, "model_type": self.model_type}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as `to_dict`.

        In transformers it leaves out the fields that configurations of all models have
        at their defaults; here there are none.
        """
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of the JSON file.

        Args:
            use_diff: Without effect; see `to_diff_dict`.
        """
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed.

        Raises:
            ValueError: If a name is unknown or a value is out of range.
        """
        return dataclasses.replace(self, **self._checked(changes))

    @classmethod
    def from_json_file(cls, path: str | os.PathLike, **overrides: Any) -> Self:
        """Reads the configuration from a JSON file.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not a JSON object or belongs to another kind of
                model, or a value is out of range.
        """
        values = read_json_object(path)
        if cls.part and values.get(cls.part):
            check_values(values, {cls.part: dict}, path)
            values = values[cls.part]
        kind = values.get("model_type") or cls.model_type
        if cls.file_name == CONFIG_NAME and kind != cls.model_type:
            raise ValueError(
                f"{path} must have the model_type {cls.model_type!r}. "
                f"Received: {shown(kind)}"
            )
        try:
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    @accepts_habits
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Reads the configuration of a checkpoint directory or hub repository.

        Args:
            path_or_id: A directory, or a repository id such as `"suno/bark-small"`.
            subfolder: Folder of the checkpoint inside it.
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
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.from_json_file(path, **overrides)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes the JSON file into `directory`, which is created if missing."""
        with saving(local_path(directory, "The directory")) as change:
            path = change.path / self.file_name
            path.write_text(self.to_json_string(), encoding="utf-8")
