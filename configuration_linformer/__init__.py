"""`LinformerConfig`, registered so that `AutoConfig` knows `model_type = "linformer"`."""

from transformers import AutoConfig

from .configuration_linformer import LinformerConfig


AutoConfig.register(LinformerConfig.model_type, LinformerConfig, exist_ok=True)

__all__ = ["LinformerConfig"]
