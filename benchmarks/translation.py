# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train small encoder-decoders on translation from scratch, with a Linformer or a RoBERTa as encoder, and measure BLEU.

    python -m benchmarks.translation --dataset_name <folder or name of Multi30k> --output_dir translation
    python -m benchmarks.translation --help

A model translates English to German. It is an `EncoderDecoderModel` of transformers whose decoder is a RoBERTa with a causal
mask and cross-attention, and only the encoder differs between the models: all have the same sizes and the same scale of
initialisation, and are trained with the same arguments. A learned projection is the paper's attention, with k = n / 4 and
without blocks. A pooling has blocks, and a model for each k and b that are asked for.

The model after the last step translates the test set with beam search. BLEU and chrF are those of sacreBLEU, of the
detokenised translations. The loss on the validation set is per token, in nats, and without label smoothing.

A run that was killed goes on from its last checkpoint. Every finished run is a line in results.jsonl, and is not run again.
The table is written to translation.md, and each model to the folder `model` of its run.
"""

import argparse
import statistics
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    RobertaConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerState,
    set_seed,
)

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from transformers_linformer.tables import markdown_table
from transformers_linformer.tokenization import train_tokenizer, vocabulary_size
from transformers_linformer.training.checkpoints import last_complete_checkpoint
from transformers_linformer.training.masked_lm import token_losses
from transformers_linformer.training.trainer import scale_learning_rates

from .runs import Stopwatch, add_training_arguments, digest, has_ended, mean_and_error, run_missing, training_options


SOURCE, TARGET = "en", "de"
LEARNED = ("linear", "conv")
# The options that decide, besides the encoder and the seed, what a run gives
ARGUMENTS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "warmup_ratio",
    "batch_size",
    "label_smoothing",
    "dropout",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_seq_length",
    "vocab_size",
)


def parse_arguments(argv=None):
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="The folder of Multi30k, or its name on the Hub.")
    parser.add_argument("--dataset_config_name", default="en-de", help="The configuration of that dataset.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table and models.")
    parser.add_argument(
        "--encoders",
        nargs="+",
        default=["roberta", "linear", "attention_pool"],
        choices=("roberta", *PROJECTION_TYPES),
        help="RoBERTa, and the Linformers by their projection.",
    )
    parser.add_argument("--projected_dims", nargs="+", type=int, default=[16], help="The values of k of the poolings.")
    parser.add_argument("--block_sizes", nargs="+", type=int, default=[16], help="The values of b of the poolings.")
    parser.add_argument("--num_train_epochs", type=float, default=5.0, help="The number of passes over the training set.")
    parser.add_argument("--max_steps", type=int, default=-1, help="If positive, the number of steps instead of epochs.")
    add_training_arguments(parser, "pairs of sentences", save_steps=200)
    parser.add_argument("--label_smoothing", type=float, default=0.1, help="The part of a label that all words share.")
    parser.add_argument("--dropout", type=float, default=0.1, help="The dropout of hidden states and attention.")
    parser.add_argument("--hidden_size", type=int, default=256, help="d of encoder and decoder.")
    parser.add_argument("--intermediate_size", type=int, default=512, help="The size of the feed-forward layers.")
    parser.add_argument("--num_hidden_layers", type=int, default=3, help="The layers of the encoder, and of the decoder.")
    parser.add_argument("--num_attention_heads", type=int, default=4, help="The heads of each layer.")
    parser.add_argument("--max_seq_length", type=int, default=64, help="n. Longer sentences are cut off to train on.")
    parser.add_argument("--vocab_size", type=int, default=8000, help="The tokens that both languages share.")
    return parser.parse_args(argv)


def make_encoders(names, n, projected_dims, block_sizes):
    """Returns a dictionary of the encoder, k and b for each model. RoBERTa has neither k nor b."""
    encoders = []
    for name in names:
        if name == "roberta":
            sizes = [(None, None)]
        elif name in LEARNED:
            sizes = [(n // 4, 0)]
        else:
            sizes = product(projected_dims, block_sizes)
        encoders += [{"encoder": name, "k": k, "block_size": block_size} for k, block_size in sizes]
    return encoders


def make_model(tokenizer, encoder, k, block_size, arguments):
    """Returns an untrained encoder-decoder. Its configuration for generation has the search that is measured."""
    n = arguments["max_seq_length"]
    special_ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    common = {name: arguments[name] for name in names} | special_ids
    common |= {"vocab_size": vocabulary_size(tokenizer), "type_vocab_size": 1, "layer_norm_eps": 1e-12}
    common |= {name: arguments["dropout"] for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
    # RoBERTa counts positions from the index after that of the padding token
    of_roberta = common | {"max_position_embeddings": n + tokenizer.pad_token_id + 1}
    if encoder == "roberta":
        encoder_config = RobertaConfig(**of_roberta)
    else:
        sizes = {"max_position_embeddings": n, "projected_dim": k, "block_size": block_size}
        encoder_config = LinformerConfig(**common, **sizes, projection_type=encoder)
    decoder_config = RobertaConfig(**of_roberta, is_decoder=True, add_cross_attention=True)
    special_ids |= {"decoder_start_token_id": tokenizer.bos_token_id}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder_config, decoder_config, **special_ids)
    model = EncoderDecoderModel(config=config)
    model.generation_config = GenerationConfig(max_length=n, num_beams=5, length_penalty=1.0, **special_ids)
    return model


def prepare_tokenizer(texts, vocab_size, n, folder):
    """Returns the tokenizer of the folder. It is trained first if it is not there, so that later runs have the same."""
    if not (folder / "tokenizer_config.json").exists():
        train_tokenizer(texts, vocab_size, n).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def tokenize(pairs, tokenizer):
    """Returns the token ids of the sources, <s> ... </s>, and the labels, which lack the <s> that the decoder starts from."""

    def of_batch(batch):
        target = tokenizer(batch[TARGET], truncation=True).input_ids
        return {**tokenizer(batch[SOURCE], truncation=True), "labels": [ids[1:] for ids in target]}

    return pairs.map(of_batch, batched=True, remove_columns=pairs.column_names, desc="Tokenizing")


def train(model, tokenizer, pairs, folder, seed, arguments, save_steps):
    """Trains the model, from the folder's last checkpoint on if there is one. Returns the path of the final checkpoint."""
    checkpoint = last_complete_checkpoint(folder)
    if has_ended(checkpoint):
        return checkpoint
    training_arguments = Seq2SeqTrainingArguments(
        **training_options(folder, seed, arguments, save_steps),
        num_train_epochs=arguments["num_train_epochs"],
        adam_beta2=0.98,
        label_smoothing_factor=arguments["label_smoothing"],
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments,
        train_dataset=pairs,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
        callbacks=[Stopwatch()],
    )
    scale_learning_rates(trainer.create_optimizer(), model)
    trainer.train(resume_from_checkpoint=checkpoint)
    return last_complete_checkpoint(folder)


def save(model, tokenizer, folder):
    """
    Saves the model, and its encoder once more in the folder `encoder`, together with the encoder's code.

    `EncoderDecoderModel` looks up its encoder by the type of the configuration and does not carry code. Where this project
    is not installed, the encoder has to be loaded first, which makes its type known:

        encoder = AutoModel.from_pretrained(f"{folder}/encoder", trust_remote_code=True)
        AutoConfig.register(encoder.config.model_type, type(encoder.config))
        model = EncoderDecoderModel.from_pretrained(folder)
    """
    model.save_pretrained(folder)
    model.encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def loss_per_token(model, tokenizer, pairs, batch_size):
    """Returns the mean cross-entropy of a token of the targets, in nats."""
    total = tokens = 0
    for batch in DataLoader(pairs, batch_size, collate_fn=DataCollatorForSeq2Seq(tokenizer, model)):
        labels = batch.pop("labels")
        logits = model(**batch.to(model.device)).logits
        total += token_losses(logits, labels.to(model.device))[..., 0].sum().item()
        tokens += (labels != -100).sum().item()
    return total / tokens


def translate(model, tokenizer, pairs, folder, batch_size):
    """Returns the translations of the sources, in their order. Sentences of about the same length share a batch."""
    training_arguments = Seq2SeqTrainingArguments(
        output_dir=folder, per_device_eval_batch_size=batch_size, predict_with_generate=True, report_to="none"
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    order = np.argsort([len(ids) for ids in pairs["input_ids"]], kind="stable")
    ids = trainer.predict(pairs.select(order).remove_columns("labels")).predictions
    translations = tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
    return [translations[row] for row in np.argsort(order)]


def import_sacrebleu():
    try:
        import sacrebleu
    except ImportError as error:
        raise SystemExit("benchmarks.translation needs sacreBLEU: pip install sacrebleu") from error
    return sacrebleu


def scores(translations, references):
    """Returns BLEU and chrF of a corpus, in percent, and the signature of sacreBLEU that says how BLEU was computed."""
    sacrebleu = import_sacrebleu()
    bleu = sacrebleu.BLEU()
    score = bleu.corpus_score(translations, [references]).score
    chrf = sacrebleu.corpus_chrf(translations, [references]).score
    return {"bleu": score, "chrf": chrf, "signature": str(bleu.get_signature())}


def folder_name(encoder, k, block_size, seed, arguments):
    """Returns the name of the folder of a run, which no run with other arguments has."""
    return "-".join(str(each) for each in (encoder, k, block_size, seed, digest(arguments)) if each is not None)


def make_table(results):
    """Returns a table with a line per encoder, k and b: means over the seeds, and the standard error of BLEU."""
    groups = {}
    for result in results:
        groups.setdefault((result["encoder"], result["k"], result["block_size"]), []).append(result)
    rows = []
    for group, runs in groups.items():

        def mean(name, digits, runs=runs):
            return f"{statistics.mean(run[name] for run in runs):.{digits}f}"

        row = ["" if each is None else each for each in group]
        row += [mean_and_error([run["bleu"] for run in runs], 2), mean("chrf", 1), mean("validation_loss", 3)]
        rows.append([*row, mean("train_seconds", 0), mean("generation_seconds", 0), len(runs)])
    header = ["encoder", "k", "b", "BLEU ± standard error", "chrF", "validation loss"]
    return markdown_table([*header, "training, s", "generation, s", "seeds"], rows)


def main(argv=None):
    args = parse_arguments(argv)
    import_sacrebleu()  # so that a run does not fail after its training
    args.output_dir.mkdir(parents=True, exist_ok=True)
    n, arguments = args.max_seq_length, {name: getattr(args, name) for name in ARGUMENTS}
    texts = load_dataset(args.dataset_name, args.dataset_config_name)
    tokenizer = prepare_tokenizer(texts["train"], args.vocab_size, n, args.output_dir / f"tokenizer-{args.vocab_size}-{n}")
    pairs = {split: tokenize(texts[split], tokenizer) for split in ("train", "validation", "test")}

    def run(encoder, k, block_size, seed, **arguments):
        """Trains and evaluates one model."""
        folder = args.output_dir / "runs" / folder_name(encoder, k, block_size, seed, arguments)
        print(f"Encoder {encoder}, k = {k}, b = {block_size}, seed {seed}: {folder}", flush=True)
        set_seed(seed)
        model = make_model(tokenizer, encoder, k, block_size, arguments)
        checkpoint = Path(train(model, tokenizer, pairs["train"], folder, seed, arguments, args.save_steps))
        model = EncoderDecoderModel.from_pretrained(checkpoint).eval()
        validation_loss = loss_per_token(model, tokenizer, pairs["validation"], args.batch_size)
        save(model, tokenizer, folder / "model")
        start = time.perf_counter()
        translations = translate(model, tokenizer, pairs["test"], folder, args.batch_size)
        generation_seconds = time.perf_counter() - start
        (folder / "translations.txt").write_text("".join(f"{each}\n" for each in translations), encoding="utf-8")
        stopwatch = TrainerState.load_from_json(checkpoint / "trainer_state.json").stateful_callbacks["Stopwatch"]
        return {
            **scores(translations, list(texts["test"][TARGET])),
            "validation_loss": validation_loss,
            "train_seconds": stopwatch["attributes"]["seconds"],
            "generation_seconds": generation_seconds,
        }

    encoders = make_encoders(args.encoders, n, args.projected_dims, args.block_sizes)
    wanted = [encoder | {"seed": seed} | arguments for seed, encoder in product(args.seeds, encoders)]
    results = run_missing(wanted, run, args.output_dir / "results.jsonl", jobs=1)
    table = make_table([result for result in results if arguments.items() <= result.items()])
    (args.output_dir / "translation.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
