# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds where a model is loaded from, and reads what is needed before the weights."""

import os
from dataclasses import dataclass, field
from functools import cached_property

from transformers import AutoConfig
from transformers.utils import cached_file

from .files import read_json


@dataclass(frozen=True)
class Source:
    """Says where a model is. What stands there beside its weights is read when it is first needed, and then kept."""

    name: str | os.PathLike  # a folder, or a name on the Hub
    hub_kwargs: dict = field(default_factory=dict)  # arguments of `from_pretrained`, such as `revision`

    @classmethod
    def of(cls, name, **hub_kwargs):
        """Returns the source of a name. What is a source already is returned as it is."""
        return name if isinstance(name, cls) else cls(name, hub_kwargs)

    def find(self, filename, subfolder=""):
        """Returns the path of a file, or None if there is no such file."""
        names = ("cache_dir", "revision", "token", "local_files_only")
        return cached_file(
            self.name,
            filename,
            subfolder=subfolder,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **{key: value for key, value in self.hub_kwargs.items() if key in names},
        )

    @cached_property
    def modules_path(self):
        """The path of the modules.json of sentence-transformers, or None without it, or if `hub_kwargs` name a subfolder."""
        return None if self.hub_kwargs.get("subfolder") else self.find("modules.json")

    @cached_property
    def modules(self):
        """The list of modules in that file. Raises `ValueError` if it is no list of dictionaries with a type and a path."""
        modules = [] if self.modules_path is None else read_json(self.modules_path, list)
        for module in modules:
            if not (isinstance(module, dict) and all(isinstance(module.get(key), str) for key in ("type", "path"))):
                raise ValueError(f"{self.modules_path} lists {module!r}, which has no `type` and `path`.")
        return modules

    @cached_property
    def subfolder(self):
        """The transformer's folder, "" for the source's own. Raises `ValueError` if a modules.json names no transformer."""
        folders = [module["path"] for module in self.modules if module["type"].endswith(".Transformer")]
        if self.modules_path is not None and not folders:
            raise ValueError(f"{self.modules_path} names no module of the type Transformer, so there are no weights to load.")
        return folders[0] if folders else self.hub_kwargs.get("subfolder") or ""

    @property
    def kwargs(self):
        """The arguments of `from_pretrained` that find the transformer. Raises what `subfolder` raises."""
        return self.hub_kwargs | {"subfolder": self.subfolder}

    @cached_property
    def config(self):
        """The transformer's configuration. Raises `ValueError` if there are adapters, which alone have none."""
        if self.find("adapter_config.json", self.subfolder) is not None:
            raise ValueError(
                "adapter_config.json says that there are adapters, which change a model: merge them into it first, by PEFT's"
                " `merge_and_unload()`, and save that."
            )
        return AutoConfig.from_pretrained(self.name, **self.kwargs)
