# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines `LinformerConfig`, the configuration of a Linformer."""

import math
from dataclasses import field

from transformers.utils.versions import require_version


# The version of this library, which each checkpoint names
VERSION = "0.2.0"

# This comes before the other imports, as older releases lack some of what they import
require_version("transformers>=5.4.0", "The Linformer needs it: pip install --upgrade transformers")

from huggingface_hub.dataclasses import strict  # noqa: E402
from transformers.activations import ACT2FN  # noqa: E402
from transformers.configuration_utils import PreTrainedConfig  # noqa: E402
from transformers.utils import auto_docstring  # noqa: E402


PROJECTION_SHARINGS = ("none", "headwise", "key_value", "layerwise")
PROJECTION_TYPES = ("linear", "mean_pool", "max_pool", "attention_pool", "hard_attention_pool", "conv")
CLASSIFIER_POOLINGS = ("cls", "mean")

# A checkpoint of any head can be loaded as every class here.
AUTO_MAP = {
    "AutoConfig": "configuration_linformer.LinformerConfig",
    "AutoModel": "modeling_linformer.LinformerModel",
    "AutoModelForTextEncoding": "modeling_linformer.LinformerModel",
    "AutoModelForPreTraining": "modeling_linformer.LinformerForMaskedLM",
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
        n, the length of the longest input, in tokens. Positions run from 0 to n - 1, without RoBERTa's offset.
    embedding_size (`int`, *optional*):
        The size of the embeddings of words, positions and token types, if it is not `hidden_size`. A linear layer then maps
        them to `hidden_size`, and the masked-LM head maps back, as in ALBERT and ELECTRA.
    position_period (`int`, *optional*):
        The number of position embeddings, if there are fewer than n. Later positions then repeat those after the global
        tokens, see `repeated_positions`. With blocks it has to be a multiple of the block size. `None` gives each of the n
        positions its own embedding. A conversion to more positions than the original has sets it to the number of the
        original's.
    projected_dim (`int` or `list[int]`, *optional*, defaults to 256):
        k, the number of rows that keys and values are projected to along the sequence (section 4 of the paper). A list
        gives one k per layer (the nonuniform projected dimension of section 4).
    projection_sharing (`str`, *optional*, defaults to `"layerwise"`):
        Which projections share their parameters (section 4). With `"none"`, each head of each layer has its own E and F;
        with `"headwise"`, each layer has one E and one F; with `"key_value"`, each layer has one E = F; and with
        `"layerwise"`, all layers have the same E = F. Poolings have no parameters, so the choice does not change them.
    projection_type (`str`, *optional*, defaults to `"linear"`):
        What projects n rows to k (section 4, general projections). `"linear"` is a learned k x n matrix. All other types make
        a row of each window of w = n / k consecutive positions: `"conv"` by a learned convolution with kernel and stride w,
        `"mean_pool"` and `"max_pool"` by the mean or the maximum of its tokens, and `"attention_pool"` by a weighted mean, for
        each head by a softmax of the tokens' scores for the mean query of the window. `"hard_attention_pool"` takes the one
        token with the largest score instead. These two depend on the input, which goes further than the paper. An input of m
        positions has m / w rows, rounded up.
    block_size (`int` or `list[int]`, *optional*, defaults to 0):
        b: the sequence is cut into blocks of this many tokens. A token attends exactly to the tokens of its own block, and
        also to the projected rows of the complete sequence, except those of windows that have tokens of its block. So an
        input of at most b tokens gets full attention. Except with `"linear"`, b has to be a divisor or a multiple of w. A list
        gives one size per layer. 0 is the attention of the paper, to the projected rows alone.
    num_global_tokens (`int`, *optional*, defaults to 0):
        g: every block attends exactly to the first g tokens of a sequence, beside its own tokens. The rows of their windows
        are left out, so g has to be a multiple of w. In pairs of a question and a document, these tokens hold the question.
        Without blocks, every token attends to them and to the projected rows.
    far_token_limit (`int`, *optional*):
        With blocks and a pooling, the largest number of tokens outside a block that are counted in its softmax, global tokens
        not included. If a sequence has more, each projected row counts for proportionally fewer tokens, so that nearby tokens
        weigh as much as in the short sequences that a model was trained on. `None` sets no limit, which suits a model that is
        trained from scratch. A conversion sets it to the number of tokens outside a block that the original attended to.
    relative_attention_num_buckets (`int`, *optional*):
        The number of buckets of distances between tokens, with a bias of the scores per head for each, as in MPNet and T5.
        A multiple of 4. Half of them are for tokens to the right. Distances of 128 and more share one bucket. The distance
        of a projected row is that of the middle of its window. A row of `"linear"` has no window, so there only the tokens of
        a block have a bias. `None` is no bias.
    sparse_prediction (`bool`, *optional*, defaults to `False`):
        Whether `LinformerForMaskedLM`, if it is given labels, scores the vocabulary only at the tokens to predict. The loss
        is the same, and the head takes about a seventh of the time and memory.
    inference_chunk_size (`int`, *optional*):
        Without gradients, an input of more than this many tokens goes through each layer in chunks of this many tokens,
        rounded up to whole blocks and windows. The chunks use the same memory one after the other, and the outputs are the
        same. The layers then overwrite their input, so a forward hook has to copy what it keeps. `None` stands for 512 on a
        CPU, and on other devices, which smaller chunks would not keep busy, for 16,384 if the input has at least 65,536
        tokens. 0 turns chunks off. They are also off with `output_attentions` and under `torch.compile`.
    classifier_pooling (`str`, *optional*, defaults to `"cls"`):
        What `LinformerForSequenceClassification` reads: `"cls"` is the hidden state of the first token, and `"mean"` is
        the mean of those of all tokens, to which all blocks of a long document contribute.
    classifier_dropout (`float`, *optional*):
        The dropout probability of the classification heads. `None` stands for `hidden_dropout_prob`.
    is_decoder (`bool`, *optional*, defaults to `False`):
        Only `False` is accepted. Each projected row mixes all positions, later ones too, so a Linformer cannot decode.
    add_cross_attention (`bool`, *optional*, defaults to `False`):
        Only `False` is accepted, for the same reason.
    auto_map (`dict[str, str]`, *optional*):
        Where the Auto classes find the code of the checkpoint that was loaded. What is saved always names the code that is
        saved beside it, for every head. A class that inherits from a head needs a configuration of its own, which inherits
        from this one and whose `_own_auto_map` names that class.
    linformer_version (`str`, *optional*):
        The version of this library that wrote the checkpoint. What is saved names the version that saves it. The windows of
        0.1.0 adapted to each input, so such a checkpoint is refused unless its projection is `"linear"`.

    Raises `ValueError` if a field has a wrong value, or if fields contradict each other.

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
    _own_auto_map = AUTO_MAP

    vocab_size: int = 50265
    hidden_size: int = 768
    embedding_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    position_period: int | None = None
    projected_dim: int | list[int] = 256
    projection_sharing: str = "layerwise"
    projection_type: str = "linear"
    block_size: int | list[int] = 0
    num_global_tokens: int = 0
    far_token_limit: int | None = None
    relative_attention_num_buckets: int | None = None
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    sparse_prediction: bool = False
    inference_chunk_size: int | None = None
    classifier_pooling: str = "cls"
    classifier_dropout: float | int | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    auto_map: dict | None = field(default_factory=AUTO_MAP.copy)
    linformer_version: str = VERSION

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # `strict` also runs the validator, after this and before saving, but wraps its ValueError in its own error, which is
        # not a ValueError. Here it is raised as it is.
        self.validate_fields()

    def to_dict(self):
        # The checkpoint that was loaded may name somebody else's code. Saved, that would run wherever the result is loaded.
        return {**super().to_dict(), "auto_map": dict(self._own_auto_map), "linformer_version": VERSION}

    @property
    def projected_dims(self) -> list[int]:
        """Returns a list of k for each of the `num_hidden_layers` layers."""
        return self.per_layer(self.projected_dim)

    @property
    def block_sizes(self) -> list[int]:
        """Returns a list of the block size of each of the `num_hidden_layers` layers, 0 for a layer without blocks."""
        return self.per_layer(self.block_size)

    @property
    def repeated_positions(self) -> range | None:
        """
        Returns the positions whose embeddings those from `position_period` on have, over and over, or None if none repeats.

        They begin after the global tokens, because a block would otherwise take its own tokens for global ones at the same
        positions, and they are as many as can be in whole blocks, so that the positions within a block are consecutive. If a
        block is longer than all positions after the global tokens, all of these are repeated.
        """
        if self.position_period is None:
            return None
        first = self.num_global_tokens if self.num_global_tokens < self.position_period else 0
        number = self.position_period - first
        return range(first, first + (number - number % math.lcm(*(size for size in self.block_sizes if size)) or number))

    @property
    def windows(self) -> list[int | None]:
        """Returns a list of w = n / k for each of the `num_hidden_layers` layers. With `linear` there are no windows: None."""
        return [None if self.projection_type == "linear" else self.max_position_embeddings // k for k in self.projected_dims]

    @property
    def part_multiple(self) -> int:
        """
        Returns the smallest number of positions that consists of whole blocks and windows in every layer, and into which all
        global tokens fit.
        """
        multiple = math.lcm(*(size for size in (*self.block_sizes, *self.windows) if size))
        return multiple * max(1, -(-self.num_global_tokens // multiple))

    @property
    def size_of_embeddings(self) -> int:
        """Returns the size of an embedding: `embedding_size`, or `hidden_size` if that is None."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def has_learned_projection(self) -> bool:
        """Returns whether E and F have parameters. Poolings have none."""
        return self.projection_type in ("linear", "conv")

    def per_layer(self, value):
        return [value] * self.num_hidden_layers if isinstance(value, int) else value

    def validate_fields(self):
        for problem in self.problems():
            raise ValueError(problem)

    def problems(self):
        """Yields what is wrong with the fields, one line each. A check may rely on those before it."""
        n, k, b, kind = self.max_position_embeddings, self.projected_dim, self.block_size, self.projection_type
        if self.linformer_version.startswith("0.1.") and kind != "linear":
            yield (
                f"`linformer_version` is {self.linformer_version}, whose windows adapted to each input. In {VERSION} they are"
                f" even, and with `projection_type={kind!r}` the model would compute something else. Convert or"
                " train it again."
            )
        for name in ("is_decoder", "add_cross_attention"):
            if getattr(self, name):
                yield (
                    f"`{name}=True` is impossible: a Linformer projects keys and values along the sequence, so every"
                    " projected row mixes all positions, later ones too, and no causal mask can separate them. Leave"
                    f" `{name}=False`, and use a causal model to generate text."
                )

        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*names, "max_position_embeddings", "type_vocab_size"):
            if getattr(self, name) < 1:
                yield f"`{name}` must be at least 1, got {getattr(self, name)}."
        if self.size_of_embeddings < 1:
            yield f"`embedding_size` must be at least 1, or None for `hidden_size`, got {self.embedding_size}."
        for name in ("initializer_range", "layer_norm_eps"):
            if not 0 <= getattr(self, name) < math.inf:
                yield f"`{name}` must be a finite number, at least 0, got {getattr(self, name)}."
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                yield f"`{name}` must be a probability, from 0 to 1, got {getattr(self, name)}."
        if self.pad_token_id is not None and not -self.vocab_size <= self.pad_token_id < self.vocab_size:
            yield f"`pad_token_id` must be one of the `vocab_size` ({self.vocab_size}) ids, or None, got {self.pad_token_id}."
        if self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` ({heads})."
        choices = {"projection_sharing": PROJECTION_SHARINGS, "projection_type": PROJECTION_TYPES}
        choices |= {"classifier_pooling": CLASSIFIER_POOLINGS, "hidden_act": tuple(ACT2FN)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                yield f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}."

        for name, values in (("projected_dim", self.projected_dims), ("block_size", self.block_sizes)):
            if len(values) != self.num_hidden_layers:
                yield (
                    f"A list for `{name}` needs one int per layer: `num_hidden_layers` is {self.num_hidden_layers}, but"
                    f" the list has {len(values)}: {values}."
                )
        if any(not 1 <= each <= n for each in self.projected_dims):
            yield f"`projected_dim` must be from 1 to `max_position_embeddings` ({n}), got {k}."
        if kind != "linear" and any(n % each for each in self.projected_dims):
            yield (
                f"`projection_type={kind!r}` has windows of n / k positions, so `max_position_embeddings` ({n}) must be a"
                f" multiple of `projected_dim`, got {k}."
            )
        if self.projection_sharing == "layerwise" and self.has_learned_projection and len(set(self.projected_dims)) > 1:
            yield (
                "`projection_sharing='layerwise'` has one projection for all layers, so they must have the same"
                f" `projected_dim`, got {k}. Use 'key_value', 'headwise' or 'none' for one k per layer."
            )
        if min(self.block_sizes) < 0:
            yield f"`block_size` must be a number of tokens, or 0 for no blocks, got {b}."
        for size, window in zip(self.block_sizes, self.windows):
            if size and window and size % window and window % size:
                yield (
                    f"`block_size` must be a divisor or a multiple of the window of n / k = {window} positions, got {b}:"
                    f" otherwise a window would have tokens of a block and others. Change it or `projected_dim` ({k})."
                )
        if not 0 <= self.num_global_tokens <= n:
            yield f"`num_global_tokens` must be from 0 to `max_position_embeddings` ({n}), got {self.num_global_tokens}."
        for window in self.windows:
            if window and self.num_global_tokens % window:
                yield (
                    f"`num_global_tokens` must be a multiple of the window of n / k = {window} positions, got"
                    f" {self.num_global_tokens}: otherwise a window would have global tokens and others. Give"
                    f" {-(-self.num_global_tokens // window) * window}, or change `projected_dim` ({k})."
                )
        if self.far_token_limit is not None and self.has_learned_projection:
            yield (
                f"`far_token_limit` is {self.far_token_limit}, but it is only for poolings: a row of a learned"
                f" `projection_type={kind!r}` does not stand for a number of tokens. Leave it `None`."
            )
        if self.far_token_limit is not None and self.far_token_limit < 1:
            yield f"`far_token_limit` must be at least 1, or None for no limit, got {self.far_token_limit}."

        period, buckets, chunk_size = self.position_period, self.relative_attention_num_buckets, self.inference_chunk_size
        if period is not None and not 1 <= period <= n:
            yield (
                f"`position_period` must be from 1 to `max_position_embeddings` ({n}), or None for n different positions, got"
                f" {period}."
            )
        if period is not None and period < n and any(period % size for size in self.block_sizes if size):
            yield (
                f"`block_size` is {b}, which does not divide the {period} positions of `position_period`: later positions"
                " repeat them, and a repetition would start within a block. Choose a divisor, or 0."
            )
        if buckets is not None and (buckets % 4 or not 4 <= buckets <= 256):
            yield f"`relative_attention_num_buckets` must be a multiple of 4, from 4 to 256, or None for none, got {buckets}."
        if buckets is not None and kind == "linear" and not any((*self.block_sizes, self.num_global_tokens)):
            yield (
                f"`relative_attention_num_buckets` is {buckets}, but a row of `projection_type='linear'` has no distance to a"
                " token, so without blocks nothing has one. Set `block_size`, or choose another type."
            )
        if chunk_size is not None and chunk_size < 0:
            yield (
                "`inference_chunk_size` must be a number of tokens per chunk, or 0 for never using chunks, or None, got"
                f" {chunk_size}."
            )


__all__ = ["LinformerConfig"]
