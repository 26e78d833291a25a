# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Linformer as a model of transformers: `LinformerConfig`, the model and its heads, and conversion of pretrained encoders.

Importing this package registers the Linformer with the Auto classes.
"""

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import VERSION as __version__
from modeling_linformer import (
    LinformerForMaskedLM,
    LinformerForMultipleChoice,
    LinformerForQuestionAnswering,
    LinformerForSequenceClassification,
    LinformerForTokenClassification,
    LinformerModel,
    LinformerPreTrainedModel,
)

from .attention_interface import use_linformer_attention
from .attention_maps import token_attentions
from .conversion.convert import convert_to_linformer
from .conversion.fairseq import convert_fairseq_linformer


__all__ = [
    "LinformerConfig",
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerModel",
    "LinformerPreTrainedModel",
    "__version__",
    "convert_fairseq_linformer",
    "convert_to_linformer",
    "token_attentions",
    "use_linformer_attention",
]
