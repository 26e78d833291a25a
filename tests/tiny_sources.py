"""Small pretrained encoders to be converted, of all families."""

import torch
import transformers
from datasets import Dataset
from transformers import BertConfig, BertModel, BertTokenizer

from transformers_linformer.tokenization import train_tokenizer


N, VOCAB = 24, 60
# Sizes of embeddings, and what lets each token attend to all others
OWN_FIELDS = {
    "Electra": {"embedding_size": 20},
    "Albert": {"embedding_size": 20, "hidden_act": "gelu", "num_hidden_groups": 1},
    "Longformer": {"attention_window": 4 * N},
    "BigBird": {"attention_type": "original_full", "hidden_act": "gelu", "rescale_embeddings": False},
}


def make_source(class_name, **fields):
    """Returns a small model whose parameters are far from their initial values, so that each of them counts."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    if class_name.startswith("DistilBert"):
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}
    for family, own_fields in OWN_FIELDS.items():
        if class_name.startswith(family):
            sizes |= own_fields
    source_class = getattr(transformers, class_name)
    defaults = source_class.config_class()
    offset = 0 if defaults.pad_token_id == 0 else defaults.pad_token_id + 1
    fields = sizes | {"vocab_size": VOCAB, "max_position_embeddings": N + offset} | fields
    torch.manual_seed(0)
    model = source_class(source_class.config_class(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.2
    return model


def write_source(model, folder):
    """Saves the model with a tokenizer of a few words, and returns the folder."""
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a the first second text and . one of them".split()
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=N)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_encoder(folder, texts):
    """Saves a tiny BERT that reads 512 tokens, with a tokenizer that is trained on the texts."""
    tokenizer = train_tokenizer(Dataset.from_dict({"text": texts}), 400, 512)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
