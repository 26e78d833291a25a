# Copyright 2026 The transformers-linformer authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Linformer configuration"""

import math
from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import auto_docstring


PROJECTION_SHARINGS = ("none", "headwise", "key_value", "layerwise")
PROJECTION_TYPES = ("linear", "mean_pool", "max_pool", "attention_pool", "conv")
CLASSIFIER_POOLINGS = ("cls", "mean")

# Every class that a checkpoint can be loaded as, whichever of them saved it.
AUTO_MAP = {
    "AutoConfig": "configuration_linformer.LinformerConfig",
    "AutoModel": "modeling_linformer.LinformerModel",
    "AutoModelForMaskedLM": "modeling_linformer.LinformerForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_linformer.LinformerForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_linformer.LinformerForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_linformer.LinformerForQuestionAnswering",
    "AutoModelForMultipleChoice": "modeling_linformer.LinformerForMultipleChoice",
}


@auto_docstring(checkpoint="transformers-linformer")
@strict
class LinformerConfig(PreTrainedConfig):
    r"""
    max_position_embeddings (`int`, *optional*, defaults to 512):
        n, the longest input in tokens. Positions run from 0 to n - 1, with no offset.
    projected_dim (`int` or `list[int]`, *optional*, defaults to 256):
        k, the number of rows that keys and values are projected to along the sequence (section 4 of the paper); a list
        gives one k a layer (the nonuniform projected dimension of section 4).
    projection_sharing (`str`, *optional*, defaults to `"layerwise"`):
        Which projections are one and the same (section 4): `"none"`, an own E and F for each head of each layer;
        `"headwise"`, one E and one F a layer; `"key_value"`, one E = F a layer; `"layerwise"`, one E = F for the whole
        model. Poolings have no parameters, so for them the choice changes nothing.
    projection_type (`str`, *optional*, defaults to `"linear"`):
        What projects n rows to k (section 4, general projections): `"linear"`, a learned k x n matrix; `"conv"`, a
        learned convolution along the sequence with kernel and stride n / k; `"mean_pool"` and `"max_pool"`, pooling
        over k windows that adapt to each sequence's own length, the first token in a window of its own, so that an
        input of at most k tokens gets full attention; and, further than the paper goes, as it depends on the input,
        `"attention_pool"`, a mean over the same windows that is weighted, for each head, by a softmax of the tokens'
        scores for the mean query.
    block_size (`int` or `list[int]`, *optional*, defaults to 0):
        The sequence is cut into blocks of this many tokens. Beside the projected rows of the whole sequence, a token
        attends exactly to the tokens of its own block, so that an input of at most `block_size` tokens gets full
        attention. A list gives one size per layer. 0 is the paper's attention: the projected rows alone.
    far_token_limit (`int`, *optional*):
        With blocks and a pooling, the largest number of tokens outside a block that are counted in its softmax. In a
        longer sequence each row counts for proportionally fewer tokens, so that a model that was trained on short
        sequences finds what is near as prominent as it was there. `None` is no limit, which suits a model that is
        trained from scratch. A conversion sets it to what the original attended to outside a block.
    sparse_prediction (`bool`, *optional*, defaults to `False`):
        Whether `LinformerForMaskedLM`, given labels, scores the vocabulary at the tokens to predict alone. The loss is the
        same, for about a seventh of the head's time and memory.
    inference_chunk_size (`int`, *optional*, defaults to 512):
        Without gradients, an input of at least four times this many tokens goes through each layer in chunks of this many
        tokens, rounded to whole blocks, which take turns in the same memory. The outputs are the same. Layers overwrite
        their input then, so a forward hook has to copy what it keeps. 0 turns this off; it has no effect where
        `output_attentions` is asked for, or under `torch.compile`.
    classifier_pooling (`str`, *optional*, defaults to `"cls"`):
        What `LinformerForSequenceClassification` reads: `"cls"`, the hidden state of the first token, or `"mean"`, the
        mean over all tokens, in which each block of a long document has its vote.
    classifier_dropout (`float`, *optional*):
        The dropout of the classification heads; `hidden_dropout_prob` where it is `None`.
    is_decoder (`bool`, *optional*, defaults to `False`):
        Only `False` is accepted: each projected row mixes all positions, later ones too, so a Linformer cannot decode.
    add_cross_attention (`bool`, *optional*, defaults to `False`):
        Only `False` is accepted, for the same reason.
    auto_map (`dict[str, str]`, *optional*):
        Where the Auto classes find the code that a checkpoint carries. It names every head, whichever of them is saved.

    Raises `ValueError` where the fields contradict each other.

    Example:

    ```python
    >>> from configuration_linformer import LinformerConfig
    >>> from modeling_linformer import LinformerModel

    >>> configuration = LinformerConfig(max_position_embeddings=4096, projected_dim=256)
    >>> model = LinformerModel(configuration)
    >>> model.config.projected_dims
    [256, 256, 256, 256, 256, 256, 256, 256, 256, 256, 256, 256]
    ```"""

    model_type = "linformer"
    _auto_class = "AutoConfig"

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    projected_dim: int | list[int] = 256
    projection_sharing: str = "layerwise"
    projection_type: str = "linear"
    block_size: int | list[int] = 0
    far_token_limit: int | None = None
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    sparse_prediction: bool = False
    inference_chunk_size: int = 512
    classifier_pooling: str = "cls"
    classifier_dropout: float | int | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    auto_map: dict | None = field(default_factory=AUTO_MAP.copy)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # `strict` runs the validators too, now and before saving, but wraps what they raise in an error of its own
        # that is not a ValueError.
        self.validate_decoder()
        self.validate_hidden_size()
        self.validate_projection()
        self.validate_blocks()
        self.validate_inference_chunk_size()

    @property
    def projected_dims(self) -> list[int]:
        """k of each layer, `num_hidden_layers` of them."""
        return self.per_layer(self.projected_dim)

    @property
    def block_sizes(self) -> list[int]:
        """The block size of each layer, `num_hidden_layers` of them, 0 for a layer without blocks."""
        return self.per_layer(self.block_size)

    @property
    def block_multiple(self) -> int:
        """The least number of tokens that is a whole number of blocks in every layer; 1 without blocks."""
        return math.lcm(*(size for size in self.block_sizes if size))

    @property
    def has_learned_projection(self) -> bool:
        """Whether E and F have parameters; poolings have none."""
        return self.projection_type in ("linear", "conv")

    def per_layer(self, value):
        return [value] * self.num_hidden_layers if isinstance(value, int) else value

    def validate_decoder(self):
        for name in ("is_decoder", "add_cross_attention"):
            if getattr(self, name):
                raise ValueError(
                    f"`{name}=True` cannot be: a Linformer projects keys and values along the sequence, so every"
                    " projected row mixes all positions, later ones too, and no causal mask can take them apart. Leave"
                    f" `{name}=False`, and use a causal model to generate text."
                )

    def validate_inference_chunk_size(self):
        if self.inference_chunk_size < 0:
            raise ValueError(
                f"`inference_chunk_size` must be a number of rows, or 0 for never, got {self.inference_chunk_size}."
            )

    def validate_hidden_size(self):
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads`"
                f" ({self.num_attention_heads})."
            )

    def validate_projection(self):
        choices = {
            "projection_sharing": PROJECTION_SHARINGS,
            "projection_type": PROJECTION_TYPES,
            "classifier_pooling": CLASSIFIER_POOLINGS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")

        n, dims = self.max_position_embeddings, self.projected_dims
        for name, values in (("projected_dim", dims), ("block_size", self.block_sizes)):
            if len(values) != self.num_hidden_layers:
                raise ValueError(
                    f"`{name}` as a list needs one int per layer: `num_hidden_layers` is {self.num_hidden_layers}, but"
                    f" the list has {len(values)}: {values}."
                )
        # The first token has a window of its own, so pooling needs a second one for all the others.
        smallest = 1 if self.has_learned_projection else 2
        for k in dims:
            if not smallest <= k <= n:
                raise ValueError(
                    f"`projected_dim` must be from {smallest} to `max_position_embeddings` ({n}) with"
                    f" `projection_type={self.projection_type!r}`, got {self.projected_dim}."
                )
            if self.projection_type == "conv" and n % k:
                raise ValueError(
                    "`projection_type='conv'` has kernel and stride n / k, so `max_position_embeddings`"
                    f" ({n}) must be a multiple of `projected_dim`, got {self.projected_dim}."
                )
        if self.projection_sharing == "layerwise" and self.has_learned_projection and len(set(dims)) > 1:
            raise ValueError(
                "`projection_sharing='layerwise'` has one projection for all layers, so they must have the same"
                f" `projected_dim`, got {self.projected_dim}. Use 'key_value', 'headwise' or 'none' for a k per layer."
            )

    def validate_blocks(self):
        if min(self.block_sizes, default=0) < 0:
            raise ValueError(
                f"`block_size` must be a number of tokens, or 0 for no blocks, got {self.block_size}."
            )
        if self.far_token_limit is not None and self.has_learned_projection:
            raise ValueError(
                f"`far_token_limit` is {self.far_token_limit}, but it is for poolings: a row of a learned"
                f" `projection_type={self.projection_type!r}` stands for no number of tokens. Leave it None."
            )
        least = max(self.projected_dims, default=0)
        if self.far_token_limit is not None and self.far_token_limit < least:
            raise ValueError(
                f"`far_token_limit` must be at least `projected_dim` ({least}), or an input of no more tokens would not get"
                f" full attention, got {self.far_token_limit}."
            )


__all__ = ["LinformerConfig"]
