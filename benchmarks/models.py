# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The models whose speed and memory are measured: Linformers, baselines, and the matrix products of a Linformer alone."""

import time
from dataclasses import dataclass, field
from functools import partial

import torch
import transformers
from torch import nn

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_SHARINGS, PROJECTION_TYPES
from modeling_linformer import LinformerModel
from transformers_linformer import attention_interface  # noqa: F401  registers the attention "linformer"
from transformers_linformer.conversion.convert import default_global_tokens, default_window


VOCAB_SIZE = 1000


def rows_of(n, projected_dim, block_size):
    """Returns k: `projected_dim`, but at most n, or, if that is None, as many rows as a conversion to n positions has."""
    return n // default_window(n, block_size) if projected_dim is None else min(projected_dim, n)


@dataclass
class Sizes:
    """The sizes that all models have in common, and their dtype."""

    projected_dim: int | None = field(
        default=None, metadata={"help": "k. The default is that of a conversion: n / 32, and at most 256."}
    )
    block_size: int = field(default=256, metadata={"help": "b, the number of tokens that attend to each other exactly."})
    hidden_size: int = field(default=768, metadata={"help": "d. The feed-forward layer has four times as much."})
    num_attention_heads: int = field(default=12, metadata={"help": "h."})
    num_hidden_layers: int = field(
        default=2, metadata={"help": "The number of layers of all models but ModernBERT, which has 3."}
    )
    dtype: str = field(
        default="float32", metadata={"choices": ["float32", "bfloat16"], "help": "The dtype of weights and hidden states."}
    )

    def rows(self, n):
        """Returns k for inputs of n tokens."""
        return rows_of(n, self.projected_dim, self.block_size)

    @property
    def config_kwargs(self):
        """The arguments of a configuration that these are. There is no dropout."""
        return {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 4 * self.hidden_size,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }


# What models do


def work_of(model, mode, inputs, after_backward):
    """
    Returns a function that does the work of a mode once.

    In inference that is a pass without gradients. In training it is a pass forward and back, for a loss in which all hidden
    states have a part, and then `after_backward()`. `inputs` are the arguments of the model, as a dictionary.
    """
    model.train(mode == "training")
    if mode == "inference":
        return torch.no_grad()(lambda: model(**inputs))

    def work():
        output = model(**inputs)
        output = output if isinstance(output, torch.Tensor) else output[0]
        output.float().square().mean().backward()
        after_backward()

    return work


def seconds_of(work, device):
    """Returns the CPU time of this process that `work()` takes, or, on a GPU, the time between two events."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


# Linformers


# The letters of the options in the name of a model
OPTIONS = {"k": "projected_dim", "b": "block_size", "f": "far_token_limit", "r": "relative_attention_num_buckets"}


def linformer_fields(model, n):
    """Returns the fields of the configuration that the name of a model stands for."""
    projection, *options = model.split("/")
    if projection == "full":
        fields = {"projection_type": "mean_pool", "projected_dim": 1, "block_size": n}  # one block, which has no rows
    else:
        fields = {"projection_type": projection, "projected_dim": n // 4}
    for option in options:
        if option in PROJECTION_SHARINGS:
            fields["projection_sharing"] = option
        else:
            fields[OPTIONS[option[0]]] = int(option[1:])
    return fields


def linformer(sizes, n, **fields):
    fields = {"projection_type": "attention_pool", "block_size": sizes.block_size, "projected_dim": sizes.rows(n)} | fields
    tokens = default_global_tokens(n, fields["projected_dim"], fields["block_size"], fields["projection_type"])
    fields = {"max_position_embeddings": n, "num_global_tokens": tokens, "type_vocab_size": 1} | fields
    config = LinformerConfig(**sizes.config_kwargs, **fields)
    return LinformerModel(config, add_pooling_layer=False), sizes.num_hidden_layers


def compiled(sizes, n):
    model, layers = linformer(sizes, n)
    return torch.compile(model, fullgraph=True), layers


def quantized(model):
    """Returns the model with int8 weights in its linear layers, whose inputs are quantized when they are computed."""
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    # This is deprecated, but torchao, which is to replace it, has half the speed on a CPU unless it is compiled
    qconfig = torch.ao.quantization.default_dynamic_qconfig
    return torch.ao.quantization.quantize_dynamic(model.eval(), dict.fromkeys(linears, qconfig))


def int8(sizes, n):
    model, layers = linformer(sizes, n)
    return quantized(model), layers


# Baselines


def set_attention(config, sizes, n, attention):
    config._attn_implementation = attention
    config.linformer_attention = {"window": n // sizes.rows(n), "block_size": sizes.block_size}


def roberta(sizes, n, attention):
    config = transformers.RobertaConfig(**sizes.config_kwargs, max_position_embeddings=n + 2, type_vocab_size=1)
    set_attention(config, sizes, n, attention)
    return transformers.RobertaModel(config, add_pooling_layer=False), sizes.num_hidden_layers


class Pieces(nn.Module):
    """An encoder that reads a document in pieces of 512 tokens, one after another."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids):
        return torch.cat([self.encoder(piece).last_hidden_state for piece in input_ids.split(512, dim=1)], dim=1)


class PiecesAtOnce(nn.Module):
    """An encoder that reads documents in pieces of one size, all of them in one batch. Documents are of complete pieces."""

    def __init__(self, encoder, size):
        super().__init__()
        self.encoder, self.size = encoder, size

    def forward(self, input_ids, attention_mask=None):
        mask = attention_mask if attention_mask is None else attention_mask.view(-1, self.size)
        return self.encoder(input_ids.view(-1, self.size), attention_mask=mask).last_hidden_state.view(*input_ids.shape, -1)


def pieces(sizes, n):
    model, layers = roberta(sizes, min(n, 512), "sdpa")
    return Pieces(model), layers


def nystromformer(sizes, n):
    config = transformers.NystromformerConfig(
        **sizes.config_kwargs, max_position_embeddings=n, segment_means_seq_len=n, num_landmarks=64, type_vocab_size=1
    )
    return transformers.NystromformerModel(config), sizes.num_hidden_layers


def longformer(sizes, n):
    config = transformers.LongformerConfig(
        **sizes.config_kwargs, max_position_embeddings=n + 2, attention_window=512, type_vocab_size=1
    )
    return transformers.LongformerModel(config, add_pooling_layer=False), sizes.num_hidden_layers


def big_bird(sizes, n):
    config = transformers.BigBirdConfig(
        **sizes.config_kwargs, max_position_embeddings=n, block_size=64, num_random_blocks=3, type_vocab_size=1
    )
    return transformers.BigBirdModel(config, add_pooling_layer=False), sizes.num_hidden_layers


def modernbert(sizes, n, attention):
    config = transformers.ModernBertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.hidden_size * 3 // 2,
        num_attention_heads=sizes.num_attention_heads,
        num_hidden_layers=3,  # one of three has full attention, as in ModernBERT-base
        max_position_embeddings=n,
        pad_token_id=1,
    )
    set_attention(config, sizes, n, attention)
    return transformers.ModernBertModel(config), 3


class WithEmbeddings(nn.Module):
    """An encoder of another package, which takes embedded tokens, with embeddings."""

    def __init__(self, encoder, hidden_size):
        super().__init__()
        self.embeddings, self.encoder = nn.Embedding(VOCAB_SIZE, hidden_size), encoder

    def forward(self, input_ids):
        return self.encoder(self.embeddings(input_ids))


def pypi_linformer(sizes, n):
    from linformer import Linformer

    encoder = Linformer(
        dim=sizes.hidden_size,
        seq_len=n,
        depth=sizes.num_hidden_layers,
        heads=sizes.num_attention_heads,
        k=sizes.rows(n),
    )
    return WithEmbeddings(encoder, sizes.hidden_size), sizes.num_hidden_layers


def pypi_linformer_pytorch(sizes, n):
    from linformer_pytorch import Linformer

    encoder = Linformer(
        input_size=n,
        channels=sizes.hidden_size,
        dim_k=sizes.rows(n),
        dim_ff=4 * sizes.hidden_size,
        nhead=sizes.num_attention_heads,
        depth=sizes.num_hidden_layers,
        dropout=0.0,
        dropout_ff=0.0,
        parameter_sharing="layerwise",
    )
    return WithEmbeddings(encoder, sizes.hidden_size), sizes.num_hidden_layers


# Matrix products alone


class Floor(nn.Module):
    """
    The matrix products of `linformer`, with the same chunks of tokens, into tensors that exist already.

    It reads one document of n tokens, in inference. If n is larger than a chunk or a block, it must be a multiple of it.
    """

    def __init__(self, sizes, n, block_size):
        super().__init__()
        d, h, k = sizes.hidden_size, sizes.num_attention_heads, rows_of(n, sizes.projected_dim, block_size)
        dtype = getattr(torch, sizes.dtype)

        def tensor(*shape):
            return nn.Parameter(torch.randn(*shape, dtype=dtype) * shape[-1] ** -0.5, requires_grad=False)

        self.layers, self.rows = sizes.num_hidden_layers, min(n, 512)
        self.size = min(block_size, n) or self.rows
        # An input of one block has no projected rows
        tokens = default_global_tokens(n, k, block_size, "attention_pool")
        shared = tokens + k - tokens * k // n  # global tokens, and the rows of other windows
        blocks, keys = self.rows // self.size, (shared if n > block_size else 0) + (self.size if block_size else 0)
        self.X, self.E = tensor(n, d), None if block_size else tensor(k, n)
        self.key, self.value, self.query, self.dense = (tensor(d, d) for _ in range(4))
        self.up, self.down = tensor(d, 4 * d), tensor(4 * d, d)
        # Without blocks only E X is read; with blocks the keys and values of all tokens are read, and k rows more
        self.EX, self.K, self.V = tensor(k, d), *(tensor(self.rows if block_size else k, d) for _ in range(2))
        self.keys, self.values = (tensor(blocks * h, keys, d // h) for _ in range(2))
        self.Q, self.context = tensor(self.rows, d), tensor(blocks * h, self.size, d // h)
        self.scores, self.hidden = tensor(blocks * h, self.size, keys), tensor(self.rows, 4 * d)
        self.blocks_of_Q = tensor(blocks * h, self.size, d // h)

    def forward(self, input_ids):
        for _ in range(self.layers):
            if self.E is not None:
                torch.mm(self.E, self.X, out=self.EX)
                torch.mm(self.EX, self.key, out=self.K)
                torch.mm(self.EX, self.value, out=self.V)
            for rows in self.X.split(self.rows):
                torch.mm(rows, self.query, out=self.Q)
                if self.E is None:
                    torch.mm(rows, self.key, out=self.K)
                    torch.mm(rows, self.value, out=self.V)
                torch.bmm(self.blocks_of_Q, self.keys.mT, out=self.scores)
                torch.bmm(self.scores, self.values, out=self.context)
                torch.mm(self.Q, self.dense, out=rows)
                torch.mm(rows, self.up, out=self.hidden)
                torch.mm(self.hidden, self.down, out=rows)
        return self.X


def floor(sizes, n, block_size):
    if n % min(n, 512) or n % (min(n, block_size) or 1):
        raise NotImplementedError("the floor reads a document of complete chunks and blocks")
    return Floor(sizes, n, block_size), sizes.num_hidden_layers


# Each function takes the `Sizes` and n, and returns a module that takes token ids (batch, n), and its number of layers
MODELS = {
    "linformer": linformer,
    "linformer-whole": lambda sizes, n: linformer(sizes, n, inference_chunk_size=0),  # all tokens at once
    "linformer-no-global": lambda sizes, n: linformer(sizes, n, num_global_tokens=0),
    **{f"linformer-{name}": partial(linformer, projection_type=name) for name in PROJECTION_TYPES},
    "linformer-paper": lambda sizes, n: linformer(sizes, n, projection_type="linear", block_size=0),
    "linformer-compiled": compiled,
    "linformer-int8": int8,
    "linformer-bfloat16": linformer,  # in bfloat16, whatever `dtype` is
    "floor": lambda sizes, n: floor(sizes, n, sizes.block_size),
    "floor-paper": lambda sizes, n: floor(sizes, n, 0),
    "roberta-pieces": pieces,
    "roberta-sdpa": lambda sizes, n: roberta(sizes, n, "sdpa"),
    "roberta-eager": lambda sizes, n: roberta(sizes, n, "eager"),
    # With their own weights and Linformer's attention (`use_linformer_attention`)
    "roberta-linformer": lambda sizes, n: roberta(sizes, n, "linformer"),
    "modernbert-linformer": lambda sizes, n: modernbert(sizes, n, "linformer"),
    "nystromformer": nystromformer,
    "longformer": longformer,
    "big-bird": big_bird,
    "modernbert": lambda sizes, n: modernbert(sizes, n, "sdpa"),
    "pypi-linformer": pypi_linformer,
    "pypi-linformer-pytorch": pypi_linformer_pytorch,
}
