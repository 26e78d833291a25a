# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Linformer: self-attention with linear complexity (Wang, Li, Khabsa, Fang, Ma, 2020, https://arxiv.org/abs/2006.04768).

The model is a RoBERTa encoder with another self-attention, which attention.py defines, and with it projections.py. The other
files are for inference in chunks (chunked_inference.py) and for one sequence on several processes (sequence_parallel.py).

In the shapes that comments and docstrings give, B is the batch size, n' the length of the input, and d the hidden size.
"""

import torch
from torch import nn
from torch.nn import CrossEntropyLoss
from transformers import initialization as init
from transformers.activations import ACT2FN, gelu
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.pytorch_utils import apply_chunking_to_forward
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import LinformerRelativeAttentionBias, LinformerSelfAttention, has_shared_projection
from .chunked_inference import Chunks, choose_chunks, forward_in_chunks, in_chunks
from .configuration_linformer import LinformerConfig
from .input_checks import check_inputs, has_known_values
from .projections import LinformerLearnedProjection, Tokens, make_projection
from .sequence_parallel import SequenceParallelMixin


class LinformerEmbeddings(nn.Module):
    """Adds up the embeddings of words, positions and token types, and maps them to the hidden size if it is another."""

    def __init__(self, config):
        super().__init__()
        size = config.size_of_embeddings
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_period, self.repeated_positions = config.position_period, config.repeated_positions
        self.position_embeddings = nn.Embedding(config.position_period or config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = None if size == config.hidden_size else nn.Linear(size, config.hidden_size)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.BoolTensor | None = None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if attention_mask is not None:
            # Nothing in the padding may reach a sum or a gradient, not even NaN
            inputs_embeds = inputs_embeds.masked_fill(~attention_mask.unsqueeze(-1), 0)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(position_ids)

        embeddings = inputs_embeds + self.token_type_embeddings(token_type_ids)
        if self.position_period is not None:
            repeated = (position_ids - self.position_period) % len(self.repeated_positions) + self.repeated_positions.start
            position_ids = position_ids.where(position_ids < self.position_period, repeated)
        embeddings = embeddings + self.position_embeddings(position_ids)
        embeddings = self.dropout(self.LayerNorm(embeddings))
        return embeddings if self.projection is None else self.projection(embeddings)


class LinformerSelfOutput(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        hidden_states = self.dropout(hidden_states)
        hidden_states = self.LayerNorm(hidden_states + input_tensor)
        return hidden_states


class LinformerAttention(nn.Module):
    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.self = LinformerSelfAttention(config, layer_idx=layer_idx)
        self.output = LinformerSelfOutput(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        bias: torch.Tensor | None = None,
        shared_projection: nn.Module | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attention_output, _ = self.self(hidden_states, tokens, bias, shared_projection=shared_projection, **kwargs)
        return self.output(attention_output, hidden_states)


class LinformerIntermediate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        hidden_states = self.intermediate_act_fn(hidden_states)
        return hidden_states


class LinformerOutput(LinformerSelfOutput):
    def __init__(self, config):
        super().__init__(config)
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)


class LinformerLayer(GradientCheckpointingLayer):
    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.seq_len_dim = 1
        self.attention = LinformerAttention(config, layer_idx=layer_idx)
        self.intermediate = LinformerIntermediate(config)
        self.output = LinformerOutput(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        bias: torch.Tensor | None = None,
        chunks: Chunks | None = None,
        shared_projection: nn.Module | None = None,
        relative_attention_bias: nn.Module | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        if chunks is not None:
            shared = (shared_projection, relative_attention_bias)
            return forward_in_chunks(self, hidden_states, tokens, chunks, *shared, **kwargs)
        return self.feed_forward(self.attention(hidden_states, tokens, bias, shared_projection=shared_projection, **kwargs))

    def feed_forward(self, attention_output):
        return apply_chunking_to_forward(
            self.feed_forward_chunk, self.chunk_size_feed_forward, self.seq_len_dim, attention_output
        )

    def feed_forward_chunk(self, attention_output):
        intermediate_output = self.intermediate(attention_output)
        return self.output(intermediate_output, attention_output)


class LinformerEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # With layerwise sharing, the only E = F of the model belongs to the encoder, so that it is stored once
        self.E = make_projection(config) if has_shared_projection(config) else None
        self.layer = nn.ModuleList([LinformerLayer(config, layer_idx=i) for i in range(config.num_hidden_layers)])
        has_bias = config.relative_attention_num_buckets is not None
        self.relative_attention_bias = LinformerRelativeAttentionBias(config) if has_bias else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        chunks: Chunks | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        shared = {"shared_projection": self.E, "relative_attention_bias": self.relative_attention_bias}
        for layer_module in self.layer:
            bias = None
            if chunks is None:  # otherwise each chunk has its own
                bias = layer_module.attention.self.position_bias(tokens, hidden_states.dtype, **shared)
            hidden_states = layer_module(hidden_states, tokens, bias, chunks, **shared, **kwargs)

        return BaseModelOutput(last_hidden_state=hidden_states)


class LinformerPooler(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # We "pool" the model by simply taking the hidden state corresponding to the first token.
        return self.activation(self.dense(hidden_states[:, 0]))


@auto_docstring
class LinformerPreTrainedModel(SequenceParallelMixin, PreTrainedModel):
    config: LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["LinformerEmbeddings", "LinformerLayer"]
    # accelerate moves the arguments of an offloaded layer to its device. These modules have hooks, which load their weights
    _skip_keys_device_placement = ["shared_projection", "relative_attention_bias"]
    _can_record_outputs = {
        "hidden_states": LinformerLayer,
        "attentions": LinformerSelfAttention,
    }

    @classmethod
    def _can_set_attn_implementation(cls):
        return True  # transformers looks for the attention's use of its interface in this file alone

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LinformerLearnedProjection):
            module.init_weights()
        elif isinstance(module, LinformerLMHead):
            init.zeros_(module.bias)


@auto_docstring(
    custom_intro="""
    The Linformer encoder: RoBERTa's layers, with self-attention whose keys and values are projected from n rows to k along the
    sequence, as in equation 7 of [Linformer: Self-Attention with Linear Complexity](https://huggingface.co/papers/2006.04768).
    """
)
class LinformerModel(LinformerPreTrainedModel):
    _auto_class = "AutoModel"

    def __init__(self, config: LinformerConfig, add_pooling_layer=True):
        r"""
        add_pooling_layer (bool, *optional*, defaults to `True`):
            Whether to add a pooling layer
        """
        super().__init__(config)
        self.embeddings = LinformerEmbeddings(config)
        self.encoder = LinformerEncoder(config)
        self.pooler = LinformerPooler(config) if add_pooling_layer else None

        # Initialize weights and apply final processing
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | BaseModelOutputWithPooling:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            1 for tokens that are read, 0 for padding. The outputs do not depend on the padding. Positions are counted from
            the left, so pad on the right, as tokenizers do by default.

        Raises `ValueError` for inputs longer than `config.max_position_embeddings`, for masks and ids whose shape differs from
        the input's, and for the arguments of packed documents. It is also raised for other values than 0 and 1 in a mask, for
        one that begins with padding, for `position_ids` that restart, and for ids that have no embedding, but only on the CPU
        and not in a compiled model. A GPU takes any value but 0 for a 1.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")

        input_shape = input_ids.shape if input_ids is not None else inputs_embeds.shape[:-1]
        is_first_part = self.sequence_mesh is None or self.sequence_mesh.get_local_rank() == 0
        ids = (input_ids, input_shape, attention_mask, token_type_ids, position_ids)
        check_inputs(self, *ids, is_first_part, kwargs)
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
            if has_known_values(attention_mask) and attention_mask.all():
                attention_mask = None  # nothing is padding, and all is faster without a mask
        device = input_ids.device if input_ids is not None else inputs_embeds.device
        tokens = self.make_tokens(input_shape, attention_mask, device)
        if 0 in (input_shape[0], tokens.seq_length):
            raise ValueError(
                f"The input has the shape {tuple(input_shape)}, so there is nothing to read. Give the model at least one"
                " sequence, and at least one token of each."
            )
        if tokens.seq_length > self.config.max_position_embeddings:
            raise ValueError(
                f"The input is {tokens.seq_length} tokens long, but this model reads at most"
                f" `max_position_embeddings` = {self.config.max_position_embeddings}. Truncate it"
                f" (`tokenizer(..., truncation=True, max_length={self.config.max_position_embeddings})`) or use a model"
                " with a larger `max_position_embeddings`."
            )

        chunks = None
        if not kwargs.get("output_attentions", self.config.output_attentions):
            # Layers may overwrite their input, as nothing else uses it, unless all hidden states are to be returned
            in_place = not kwargs.get("output_hidden_states", self.config.output_hidden_states)
            sizes = (self.config.inference_chunk_size, tokens.length, self.config.part_multiple)
            chunks = choose_chunks(*sizes, device, in_place)
        if position_ids is None:
            position_ids = tokens.offset + torch.arange(input_shape[1], device=device).unsqueeze(0)

        def embed(positions):
            inputs = (input_ids, token_type_ids, position_ids, inputs_embeds, attention_mask)
            return self.embeddings(*(None if each is None else each[:, positions] for each in inputs))

        hidden_states = in_chunks(embed, chunks, tokens.length)
        sequence_output = self.encoder(hidden_states, tokens, chunks, **kwargs).last_hidden_state
        pooled_output = self.pooler(self.first_token(sequence_output)) if self.pooler is not None else None

        return BaseModelOutputWithPooling(last_hidden_state=sequence_output, pooler_output=pooled_output)


class LinformerLMHead(nn.Module):
    """Scores the vocabulary for masked language modeling."""

    def __init__(self, config):
        super().__init__()
        size = config.size_of_embeddings
        self.dense = nn.Linear(config.hidden_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

        self.decoder = nn.Linear(size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.dense(features)
        x = gelu(x)
        x = self.layer_norm(x)

        # project back to size of vocabulary with bias
        return self.decoder(x)


@auto_docstring
class LinformerForMaskedLM(LinformerPreTrainedModel):
    _auto_class = "AutoModelForMaskedLM"
    _labels_are_of_tokens = True
    _tied_weights_keys = {
        "lm_head.decoder.weight": "linformer.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.lm_head = LinformerLMHead(config)
        self.sparse_prediction = config.sparse_prediction

        # Initialize weights and apply final processing
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings):
        self.lm_head.decoder = new_embeddings

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | MaskedLMOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Labels for computing the masked language modeling loss. Indices should be in `[-100, 0, ...,
            config.vocab_size]` (see `input_ids` docstring) Tokens with indices set to `-100` are ignored (masked), the
            loss is only computed for the tokens with labels in `[0, ..., config.vocab_size]`. With
            `config.sparse_prediction`, only these tokens have logits, of shape `(number of labelled tokens, vocab_size)`.
        logits_to_keep (`torch.Tensor`, *optional*):
            The positions at which the vocabulary is scored, as the logits of all positions of a long input are far larger
            than the model. Give indices along the sequence for logits of shape `(batch_size, len(logits_to_keep),
            vocab_size)`, or a boolean mask of shape `(batch_size, sequence_length)`, such as `input_ids ==
            tokenizer.mask_token_id`, for logits of shape `(number of kept tokens, vocab_size)`.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.linformer(*inputs, return_dict=True, **kwargs)
        sequence_output = outputs.last_hidden_state
        if labels is not None:
            labels = labels.to(sequence_output.device)
            if self.sparse_prediction and logits_to_keep is None:
                logits_to_keep = labels != -100
        if logits_to_keep is not None:
            kept = torch.as_tensor(logits_to_keep)
            if kept.dim() != 1 and (kept.dim() != 2 or kept.dtype != torch.bool):
                raise ValueError(
                    f"`logits_to_keep` must be 1-d indices or a 2-d boolean mask, got {kept.dim()}-d {kept.dtype}."
                )
            kept = kept if kept.dim() == 2 else (slice(None), kept)
            sequence_output = sequence_output[kept]
            labels = None if labels is None else labels[kept]
        logits = self.lm_head(sequence_output)

        loss = None
        if labels is not None:
            loss = self.token_loss(logits, labels, vocab_size=self.config.vocab_size, **kwargs)

        recorded = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return MaskedLMOutput(loss=loss, logits=logits, **recorded)


class LinformerClassificationHead(nn.Module):
    """Computes the logits of a complete sequence from its first token, or from the mean of its tokens."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = classifier_dropout(config)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features[:, 0, :]  # the <s> token (as [CLS] in BERT), or the mean of all tokens
        x = self.dropout(x)
        x = self.dense(x)
        x = torch.tanh(x)
        x = self.dropout(x)
        return self.out_proj(x)


def classifier_dropout(config):
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


@auto_docstring(
    custom_intro="""
    The Linformer with a sequence classification or regression head, e.g. for GLUE tasks: two linear layers on top of the
    hidden state of the first token, or of the mean over all tokens (`config.classifier_pooling`).
    """
)
class LinformerForSequenceClassification(LinformerPreTrainedModel):
    _auto_class = "AutoModelForSequenceClassification"
    # The loss is the mean over a batch, for regression too, so that Trainer has to average it over batches
    accepts_loss_kwargs = False

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.classifier = LinformerClassificationHead(config)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | SequenceClassifierOutput:
        r"""
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, config.num_labels)`, *optional*):
            Labels for computing the loss. With `config.num_labels == 1`, they are numbers to regress to (mean-square loss).
            Otherwise integers are class indices in `[0, ..., config.num_labels - 1]` (cross-entropy), and floating-point
            numbers, one per class, are multi-label targets (binary cross-entropy).
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.linformer(*inputs, return_dict=True, **kwargs)
        features = outputs.last_hidden_state
        if self.config.classifier_pooling == "mean":
            features = self.mean_of_tokens(features, attention_mask)
        else:
            features = self.first_token(features)
        logits = self.classifier(features)

        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)

        recorded = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return SequenceClassifierOutput(loss=loss, logits=logits, **recorded)


@auto_docstring
class LinformerForMultipleChoice(LinformerPreTrainedModel):
    _auto_class = "AutoModelForMultipleChoice"
    accepts_loss_kwargs = False

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.linformer = LinformerModel(config)
        self.dropout = classifier_dropout(config)
        # Not named `classifier`, because a checkpoint has to load as any head, and other heads' `classifier` differs in shape
        self.choice_classifier = nn.Linear(config.hidden_size, 1)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | MultipleChoiceModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`):
            Indices of input sequence tokens in the vocabulary. The other inputs have `num_choices` as their second
            dimension too.
        token_type_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            Segment token indices, in `[0, config.type_vocab_size - 1]`.
        position_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            Indices of the tokens' positions in the position embeddings, in `[0, config.max_position_embeddings - 1]`.
        inputs_embeds (`torch.Tensor` of shape `(batch_size, num_choices, sequence_length, hidden_size)`, *optional*):
            Embedded tokens, instead of `input_ids`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right choice, in `[0, ..., num_choices - 1]` (cross-entropy).
        """
        num_choices = input_ids.shape[1] if input_ids is not None else inputs_embeds.shape[1]

        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        inputs = (None if each is None else each.flatten(0, 1) for each in inputs)
        outputs = self.linformer(*inputs, return_dict=True, **kwargs)
        logits = self.choice_classifier(self.dropout(outputs.pooler_output)).view(-1, num_choices)

        loss = None
        if labels is not None:
            loss = CrossEntropyLoss()(logits, labels.to(logits.device))

        recorded = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return MultipleChoiceModelOutput(loss=loss, logits=logits, **recorded)


@auto_docstring
class LinformerForTokenClassification(LinformerPreTrainedModel):
    _auto_class = "AutoModelForTokenClassification"
    _labels_are_of_tokens = True

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.dropout = classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | TokenClassifierOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Labels for computing the token classification loss, in `[0, ..., config.num_labels - 1]`, or `-100` for tokens
            that the loss leaves out.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.linformer(*inputs, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))

        loss = None
        if labels is not None:
            loss = self.token_loss(logits, labels, config=self.config, **kwargs)

        recorded = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return TokenClassifierOutput(loss=loss, logits=logits, **recorded)


@auto_docstring
class LinformerForQuestionAnswering(LinformerPreTrainedModel):
    _auto_class = "AutoModelForQuestionAnswering"
    accepts_loss_kwargs = False

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | QuestionAnsweringModelOutput:
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.linformer(*inputs, return_dict=True, **kwargs)
        logits = self.qa_outputs(outputs.last_hidden_state)
        logits = self.join_parts(logits)
        start_logits, end_logits = (logits.squeeze(-1).contiguous() for logits in logits.split(1, dim=-1))

        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)

        recorded = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_logits, end_logits=end_logits, **recorded)


__all__ = [
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerModel",
    "LinformerPreTrainedModel",
]
