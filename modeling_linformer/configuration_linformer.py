"""The bridge to the package `configuration_linformer`; in a saved checkpoint the configuration's own file takes its place."""

from configuration_linformer.configuration_linformer import LinformerConfig  # noqa: F401
