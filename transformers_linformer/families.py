# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
The families of models that are converted, and how each of them differs from a Linformer.

To add one, write an instance of `Family` and name it in `FAMILIES`. Add its classes to tests/test_convert.py, which compares
their outputs, and its line to docs/conversion.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import transformers
from transformers.activations import ACT2FN


# For the end of the source's class name the Linformer's class, and the names of that head's tensors where they differ
HEADS = {
    "Model": ("LinformerModel", {}),
    "ForPreTraining": ("LinformerForMaskedLM", {"bert.pooler.": None, "cls.seq_relationship.": None}),
    "ForMaskedLM": ("LinformerForMaskedLM", {}),
    "ForSequenceClassification": ("LinformerForSequenceClassification", {}),
    "ForTokenClassification": ("LinformerForTokenClassification", {}),
    "ForQuestionAnswering": ("LinformerForQuestionAnswering", {}),
    "ForMultipleChoice": ("LinformerForMultipleChoice", {"classifier.": "choice_classifier."}),
}

# Fields of a source's configuration, of any family, that the Linformer has, too
CARRIED_FIELDS = """
    vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob
    attention_probs_dropout_prob classifier_dropout type_vocab_size initializer_range layer_norm_eps pad_token_id bos_token_id
    eos_token_id cls_token_id sep_token_id tie_word_embeddings chunk_size_feed_forward id2label label2id problem_type
""".split()

# Fields that have only one possible value in every family, and why
REQUIRED = {
    "position_embedding_type": (
        "absolute",
        "but a projected row has no distance to a token: the source must have absolute positions.",
    ),
    **dict.fromkeys(
        ("is_decoder", "add_cross_attention"), (False, "and a Linformer cannot decode: the source must be an encoder.")
    ),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """
    Says how the models of a family differ from a Linformer.

    Its tables map parts of the tensors' names to parts of the Linformer's names. Where two entries fit, the first one counts.
    A name in which no entry occurs is the same in both. None means that the Linformer has no tensor with this part.
    """

    classes: dict[str, str]  # for each `model_type` the start of its class names
    names: dict[str, str | None]
    head_names: dict[str, dict] = field(default_factory=dict)  # for the end of a class name, in place of those in `HEADS`
    other_heads: dict[str, str] = field(default_factory=dict)  # for the end of a class name why that head does not fit
    fields: dict[str, str] = field(default_factory=dict)  # more such fields, and others' names in the family
    constants: dict[str, object] = field(default_factory=dict)  # those of them that are constants in its code
    required: dict[str, tuple] = field(default_factory=dict)  # for a field its only possible value, and why
    masked_lm_has_gelu: bool = False  # whether that head has GELU, as the Linformer's, whatever `hidden_act` is
    positions_after_padding: bool = False  # whether the positions start after the index of padding
    prepare: Callable = lambda state, config: state  # makes of the state the one whose tensors are renamed

    def carried_fields(self, config):
        """Returns the fields of the source's configuration that a Linformer has, too, under the Linformer's names."""
        names = dict(zip(CARRIED_FIELDS, CARRIED_FIELDS)) | self.fields
        return self.constants | {name: getattr(config, own) for name, own in names.items() if hasattr(config, own)}

    def check(self, config):
        """Raises `ValueError` for a configuration whose layers compute something else than a Linformer's."""
        for name, (wanted, why) in (self.required | REQUIRED).items():
            value = getattr(config, name, None)  # None is for the default
            if value is not None and value != wanted:
                raise ValueError(f"`{name}` is {value!r}, {why}")
        activation = self.carried_fields(config)["hidden_act"]
        if activation not in ACT2FN:
            raise ValueError(
                f"`hidden_act` is {activation!r}, which is no activation function that this version of transformers has."
            )

    def find_names(self, config, class_name):
        """
        Returns the name of the Linformer's class, and the table of the tensors' names, for the source's configuration and
        the name of its class, which is None for the encoder alone. Raises `ValueError` if the source's head does not fit.
        """
        start = self.classes[config.model_type]
        head = "Model" if class_name is None else class_name.removeprefix(start)
        cure = "Convert the encoder alone, with encoder_only=True (--encoder_only)."
        why = self.other_heads.get(head)
        if head not in HEADS or not hasattr(transformers, start + head):
            why = f"a Linformer lacks: it must be one of {', '.join(start + each for each in HEADS)}"
        if why is not None:
            raise ValueError(f"`architectures` is {class_name}, whose head {why}. {cure}")
        target_class, head_names = HEADS[head]
        activation = self.carried_fields(config)["hidden_act"]
        if target_class == "LinformerForMaskedLM" and not self.masked_lm_has_gelu and activation != "gelu":
            raise ValueError(
                f"`hidden_act` is {activation!r}, also in the masked-LM head, where a Linformer always has 'gelu'. {cure}"
            )
        head_names = self.head_names.get(head, head_names)
        return target_class, head_names | {part: name for part, name in self.names.items() if part not in head_names}


def unshare_layers(state, config):
    """Returns an ALBERT's state with a copy of the shared layers for each layer that they stand for."""
    shared, layers = ".albert_layers.0.", config.num_hidden_layers
    unshared = {name: tensor for name, tensor in state.items() if shared not in name}
    for layer in range(layers):
        group = f"albert.encoder.albert_layer_groups.{layer * config.num_hidden_groups // layers}{shared}"
        copies = {name.removeprefix(group): tensor.clone() for name, tensor in state.items() if name.startswith(group)}
        unshared |= {f"albert.encoder.layer.{layer}.{name}": tensor for name, tensor in copies.items()}
    return unshared


BERT = Family(
    classes={"bert": "Bert"},
    names={
        "bert.": "linformer.",
        "cls.predictions.transform.dense.": "lm_head.dense.",
        "cls.predictions.transform.LayerNorm.": "lm_head.layer_norm.",
        "cls.predictions.": "lm_head.",
    },
    # The classifiers of BERT and ALBERT consist of the pooler and a layer. RoBERTa and the Linformer have both in one module
    head_names={
        "ForSequenceClassification": {"bert.pooler.dense.": "classifier.dense.", "classifier.": "classifier.out_proj."}
    },
)
ROBERTA = Family(
    classes={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
    names={"roberta.": "linformer."},
    masked_lm_has_gelu=True,
    positions_after_padding=True,
)
DISTILBERT = Family(
    classes={"distilbert": "DistilBert"},
    names={
        "distilbert.embeddings.": "linformer.embeddings.",
        "distilbert.transformer.layer.": "linformer.encoder.layer.",
        ".attention.q_lin.": ".attention.self.query.",
        ".attention.k_lin.": ".attention.self.key.",
        ".attention.v_lin.": ".attention.self.value.",
        ".attention.out_lin.": ".attention.output.dense.",
        ".sa_layer_norm.": ".attention.output.LayerNorm.",
        ".ffn.lin1.": ".intermediate.dense.",
        ".ffn.lin2.": ".output.dense.",
        ".output_layer_norm.": ".output.LayerNorm.",
        "vocab_transform.": "lm_head.dense.",
        "vocab_layer_norm.": "lm_head.layer_norm.",
        "vocab_projector.": "lm_head.decoder.",
    },
    other_heads=dict.fromkeys(
        ("ForSequenceClassification", "ForMultipleChoice"), "applies ReLU where a Linformer's applies tanh"
    ),
    fields={
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    constants={"layer_norm_eps": 1e-12, "type_vocab_size": 1},  # the second one, as it has no embeddings of token types
)
ELECTRA = Family(
    classes={"electra": "Electra"},
    names={
        "electra.embeddings_project.": "linformer.embeddings.projection.",
        "electra.": "linformer.",
        "generator_predictions.dense.": "lm_head.dense.",
        "generator_predictions.LayerNorm.": "lm_head.layer_norm.",
        "generator_lm_head.": "lm_head.decoder.",
    },
    fields={"embedding_size": "embedding_size"},
    other_heads={
        "ForSequenceClassification": "applies GELU where a Linformer's applies tanh",
        "ForMultipleChoice": "applies GELU where a Linformer's applies tanh",
        "ForPreTraining": "detects replaced tokens, which no head of a Linformer does",
    },
    masked_lm_has_gelu=True,
)
ALBERT = Family(
    classes={"albert": "Albert"},
    names={
        "albert.encoder.embedding_hidden_mapping_in.": "linformer.embeddings.projection.",
        "albert.pooler.": "linformer.pooler.dense.",
        "albert.": "linformer.",
        ".attention.query.": ".attention.self.query.",
        ".attention.key.": ".attention.self.key.",
        ".attention.value.": ".attention.self.value.",
        ".attention.dense.": ".attention.output.dense.",
        ".attention.LayerNorm.": ".attention.output.LayerNorm.",
        ".ffn.": ".intermediate.dense.",
        ".ffn_output.": ".output.dense.",
        ".full_layer_layer_norm.": ".output.LayerNorm.",
        "predictions.dense.": "lm_head.dense.",
        "predictions.LayerNorm.": "lm_head.layer_norm.",
        "predictions.": "lm_head.",
    },
    head_names={
        "ForSequenceClassification": {"albert.pooler.": "classifier.dense.", "classifier.": "classifier.out_proj."},
        "ForPreTraining": {"albert.pooler.": None, "sop_classifier.": None},  # its masked-LM head does not use the pooler
    },
    fields={"embedding_size": "embedding_size", "classifier_dropout": "classifier_dropout_prob"},
    required={"inner_group_num": (1, "but only ALBERTs with 1 can be converted.")},
    prepare=unshare_layers,
)
MPNET = Family(
    classes={"mpnet": "MPNet"},
    names={
        "mpnet.": "linformer.",
        ".attention.attn.q.": ".attention.self.query.",
        ".attention.attn.k.": ".attention.self.key.",
        ".attention.attn.v.": ".attention.self.value.",
        ".attention.attn.o.": ".attention.output.dense.",
        ".attention.LayerNorm.": ".attention.output.LayerNorm.",
    },
    fields={"relative_attention_num_buckets": "relative_attention_num_buckets"},
    constants={"type_vocab_size": 1},  # it has no embeddings of token types, either
    required={
        "relative_attention_num_buckets": (
            32,
            "but MPNet computes with 32, whatever its configuration says: the source must have 32.",
        )
    },
    masked_lm_has_gelu=True,
    positions_after_padding=True,
)
LONGFORMER = Family(
    classes={"longformer": "Longformer"},
    names={"_global.": None, "longformer.": "linformer."},
    other_heads=dict.fromkeys(
        ("ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering"),
        "reads tokens with global attention, for which a Linformer has no weights",
    ),
    masked_lm_has_gelu=True,
    positions_after_padding=True,
)
BIG_BIRD = Family(
    classes={"big_bird": "BigBird"},
    names={"bert.pooler.": "linformer.pooler.dense.", **BERT.names},
    head_names=dict.fromkeys(("ForMaskedLM", "ForTokenClassification"), {"bert.pooler.": None}),  # which these do not use
    other_heads={
        "ForSequenceClassification": "has its own activation function where a Linformer's applies tanh",
        "ForQuestionAnswering": "has a layer more than a Linformer's",
    },
    required={"rescale_embeddings": (False, "and a Linformer does not multiply its embeddings by a number.")},
)
# The family of each `model_type`
FAMILIES = {
    model_type: family
    for family in (BERT, ROBERTA, DISTILBERT, ELECTRA, ALBERT, MPNET, LONGFORMER, BIG_BIRD)
    for model_type in family.classes
}
