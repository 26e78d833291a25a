"""Small Linformers with random parameters, and inputs for them."""

import torch

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerModel


VOCAB, PAD, N, K, BLOCK = 50, 1, 24, 6, 8
# They differ from one another, so that no mixed-up dimension fits by chance
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "max_position_embeddings": N,
    "projected_dim": K,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def tiny_config(**fields):
    """Returns a configuration with these fields, and else of the `SIZES`."""
    return LinformerConfig(**{**SIZES, **fields})


def make_model(model_class=LinformerModel, dtype=torch.float32, keeps_scale=False, **fields):
    """
    Returns a small model in which every parameter is random, as the zero biases of a new model would hide a lost bias.

    With `keeps_scale`, matrices keep the scale of their inputs, as trained matrices do.
    """
    options = {"add_pooling_layer": False} if keeps_scale and model_class is LinformerModel else {}
    model = model_class(tiny_config(**fields), **options).eval().to(dtype)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.5 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5 if keeps_scale else 0.2
        values = scale * torch.randn(parameter.shape, generator=generator) + name.endswith("LayerNorm.weight")
        parameter.data.copy_(values)
    return model


def make_ids(*shape, seed=0):
    """Returns random token ids, none of which is the padding id."""
    return torch.randint(PAD + 1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def pad_right(sequences, length=None, garbage=None):
    """Returns a batch and its mask. The padding holds the padding id, or random ids of the seed `garbage`."""
    shape = (len(sequences), length or max(map(len, sequences)))
    batch = torch.full(shape, PAD) if garbage is None else make_ids(*shape, seed=garbage)
    mask = torch.zeros_like(batch)
    for row, sequence in enumerate(sequences):
        batch[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return batch, mask
