# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines the Trainer of the commands: several processes can share a sequence, and model cards say what the model is."""

import contextlib
import functools
import math
import os
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.distributed.device_mesh import init_device_mesh
from transformers import EarlyStoppingCallback, Trainer, TrainerState

from modeling_linformer.projections import LinformerLearnedProjection

from ..errors import UsageError, first_line
from ..loading import check_finite
from ..model_card import write_training_card
from ..tokenization import fit_length
from .checkpoints import last_complete_checkpoint, write_checksums


logger = transformers.utils.logging.get_logger("transformers.linformer.trainer")


class LinformerTrainer(Trainer):
    """
    A Trainer that writes this project's model cards, and in which processes can share sequences.

    With `sequence_parallel_size` above 1, that many processes share each sequence: they get the same batch, of which each
    computes its part of the tokens. `card` is a `model_card.TrainingCard`. `eval_data_collator` makes the batches of
    evaluations, if they are not to be those of `data_collator`.

    A run that was killed ends with the same weights as one that was not: early stopping keeps its patience, no step is
    taken after the last one, and checkpoints have checksums. A metric that fails does not end training, and a loss or weights
    that are not finite do. Evaluations read all rows, also where training drops incomplete batches.
    """

    # Whether each process gets only its part of the inputs
    shards_inputs = True

    def __init__(self, *args, card, eval_data_collator=None, sequence_parallel_size=1, **kwargs):
        try:
            super().__init__(*args, **kwargs)
        except (ValueError, ImportError) as error:  # about an argument, such as --report_to, --fp16 or --torch_compile
            raise UsageError(first_line(error)) from error
        except RuntimeError as error:
            if not self.args.fsdp:
                raise
            raise UsageError(f"--fsdp: {first_line(error)}") from error
        # Trainer goes on from a checkpoint by the names of the model's own tensors, and passes over all others. A model that
        # was loaded from older names (LayerNorm.gamma, as in bert-base-uncased) would be saved by those.
        self.model.save_pretrained = functools.partial(self.model.save_pretrained, save_original_format=False)
        if self.model.config.model_type == "linformer" and self.processing_class is not None:
            fit_length(self.processing_class, self.model.config.max_position_embeddings)  # as it has cut the data elsewhere
        self.card = card
        self.eval_data_collator = eval_data_collator or self.data_collator
        self.args.restore_callback_states_from_checkpoint = True
        if self.accelerator.scaler is None:  # which skips steps whose loss overflows float16
            self.args.logging_nan_inf_filter = False  # it would log other losses in place of those that are not finite
        if self.compute_metrics is not None:
            self.compute_metrics = self.without_failure(self.compute_metrics)
        self.processes_per_sequence = sequence_parallel_size
        if sequence_parallel_size > 1:
            self.share_sequences()

    def init_hf_repo(self, *args, **kwargs):
        try:
            super().init_hf_repo(*args, **kwargs)
        except Exception as error:  # the Hub refuses, or one of several libraries finds no connection
            raise UsageError(
                f"--push_to_hub: {first_line(error).rstrip('.')}. Check the connection, log in with `hf auth login`, or"
                " give --hub_token."
            ) from error

    def share_sequences(self):
        size, world_size = self.processes_per_sequence, self.args.world_size
        if world_size % size:
            raise UsageError(
                f"--sequence_parallel_size {size} does not divide the number of processes, {world_size}: start a multiple"
                f" of it (`torchrun --nproc_per_node {size}`, `accelerate launch`)."
            )
        if not hasattr(self.model, "set_sequence_mesh"):
            raise UsageError(f"--sequence_parallel_size {size} is for Linformers; this is a {type(self.model).__name__}.")
        longest, part = self.model.config.max_position_embeddings, self.model.config.part_multiple
        if longest <= (size - 1) * part:
            raise UsageError(
                f"--sequence_parallel_size {size} is too many for sequences of at most {longest} tokens: each process must"
                f" get at least {part} tokens, so that it has whole blocks and windows (`block_size`, `projected_dim`)."
            )
        # accelerate gives the processes along "cp" (context parallel) the same batches
        mesh = init_device_mesh(self.args.device.type, (world_size // size, size), mesh_dim_names=("dp_replicate", "cp"))
        self.accelerator.state.device_mesh = mesh
        self.accelerator.dataloader_config.dispatch_batches = False  # of a stream, too, each process reads its batches
        self.model.set_sequence_mesh(mesh["cp"])

    def create_optimizer(self, *args, **kwargs):
        is_new = self.optimizer is None  # as Trainer returns the same one if it trains again
        try:
            optimizer = super().create_optimizer(*args, **kwargs)
        except (ValueError, TypeError, ImportError) as error:
            name, more = self.args.optim.value, self.args.optim_args
            raise UsageError(f"--optim {name}{f' --optim_args {more}' if more else ''}: {first_line(error)}") from error
        if is_new:
            scale_learning_rates(optimizer, self.model)
        return optimizer

    def create_scheduler(self, *args, **kwargs):
        try:
            return super().create_scheduler(*args, **kwargs)
        except (ValueError, TypeError) as error:
            name, more = self.args.lr_scheduler_type.value, self.args.lr_scheduler_kwargs
            more = f" --lr_scheduler_kwargs {more}" if more else ""
            raise UsageError(f"--lr_scheduler_type {name}{more}: {first_line(error)}") from error

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        return self.model.shard_inputs(inputs) if self.shards_inputs and self.processes_per_sequence > 1 else inputs

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        if self.args.dataloader_drop_last and hasattr(loader.dataset, "__len__") and len(loader) == 0:
            raise UsageError(
                f"--dataloader_drop_last leaves nothing to train on, as {len(loader.dataset)} rows are less than one batch:"
                " leave it out, or lower --per_device_train_batch_size."
            )
        return loader

    def get_eval_dataloader(self, *args, **kwargs):
        with self.reading_all_rows():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args, **kwargs):
        with self.reading_all_rows():
            return super().get_test_dataloader(*args, **kwargs)

    @contextlib.contextmanager
    def reading_all_rows(self):
        """Has data loaders that are made meanwhile read all rows, with the collator of evaluations."""
        collator, drop_last = self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = self.eval_data_collator, False
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last

    def get_batch_samples(self, *args, **kwargs):
        # Each of the processes that share a sequence counted the tokens to predict of the whole sequence
        batches, number = super().get_batch_samples(*args, **kwargs)
        return batches, None if number is None else number / self.processes_per_sequence

    def evaluation_loop(self, *args, **kwargs):
        if self.processes_per_sequence > 1:
            self.gather_function = self.gather_sequences
        output = super().evaluation_loop(*args, **kwargs)
        # In training, the loss of the next step shows it
        if not self.is_in_train and output.predictions is not None and not np.isfinite(output.predictions).all():
            if self.args.do_train:
                self.end_diverged("what the model answers is not finite")
            raise UsageError("what the model answers is not finite: name an earlier checkpoint, or give --dtype float32.")
        return output

    def _maybe_log_save_evaluate(self, tr_loss, *args, **kwargs):
        scaler = self.accelerator.scaler
        if scaler is None:  # all processes have to see it, or the others would wait for the one that ends
            is_finite = bool(self.accelerator.gather(tr_loss.detach()).isfinite().all())
        else:  # it halves its scale at each step that it skips, and finite numbers never need so small a scale
            is_finite = not scaler.is_enabled() or scaler.get_scale() >= torch.finfo(torch.float16).tiny
        if not is_finite:
            self.control.should_log, self.control.should_evaluate, self.control.should_save = True, False, False
        elif self.control.should_evaluate or self.control.should_save:
            self.check_weights()
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        if not is_finite:
            self.end_diverged("the loss is not finite")

    def check_weights(self):
        """Raises `UsageError` if training has made weights that are not finite."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # no process has a complete tensor
            return
        try:
            check_finite({name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad})
        except ValueError:
            self.end_diverged("the weights are not finite")

    def end_diverged(self, what):
        """Saves the state, whose log has the losses until then, and raises the `UsageError` that ends the run."""
        self.save_state()
        checkpoint = last_complete_checkpoint(self.args.output_dir)
        kept = "There is no checkpoint from before."
        if checkpoint is not None:
            kept = f"The last checkpoint with finite weights is {checkpoint}."
        raise UsageError(
            f"training has diverged: at step {self.state.global_step}, {what}. Give a lower --learning_rate than"
            f" {self.args.learning_rate:g}, and another --output_dir. {kept}"
        )

    def gather_sequences(self, tensor):
        """Does what `gather_for_metrics` does, with one entry per sequence, although no process has a whole sequence."""
        rows = self.accelerator.gather(tensor).unflatten(0, (-1, self.processes_per_sequence, len(tensor)))
        rows = self.join_shards(rows.transpose(1, 2)).flatten(0, 1)
        state = self.accelerator.gradient_state
        return rows[: state.remainder] if state.end_of_dataloader and state.remainder > 0 else rows

    def join_shards(self, shards):
        """Averages losses, and joins the tokens of all else: (replicas, B, processes, ...) becomes (replicas, B, ...)."""
        return shards.mean(2) if shards.dim() == 3 else shards.flatten(2, 3)

    def without_failure(self, compute_metrics):
        """Returns the function in a form that gives nan for the metric that models are compared by if it fails."""

        def compute(prediction):
            try:
                return compute_metrics(prediction)
            except Exception as error:
                message = f"the metrics cannot be computed ({type(error).__name__}: {first_line(error)})"
                if not self.args.do_train:
                    raise UsageError(f"{message}.") from error
                logger.warning(f"{message}, so the run goes on without them")
                name = self.args.metric_for_best_model
                return {} if name in (None, "loss") else {name: math.nan}

        return compute

    @property
    def stopped_early(self):
        """Returns whether early stopping has ended training."""
        return any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )

    def _run_epoch(self, *args, **kwargs):
        # From a checkpoint of the last step Trainer would take one more, unless it is the end of the last epoch
        if self.state.global_step >= self.state.max_steps or self.stopped_early:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _init_training_state(self, *args, **kwargs):
        trained = super()._init_training_state(*args, **kwargs)
        # The path in the checkpoint is that of the folder where the run began
        best = Path(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        return trained

    def _save_checkpoint(self, *args, **kwargs):
        super()._save_checkpoint(*args, **kwargs)
        self.accelerator.wait_for_everyone()  # as each process writes the state of its random generators
        if self.args.should_save:
            write_checksums(Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"))

    def restore(self):
        """Loads the model and the state that training ended with from the output folder."""
        self._load_from_checkpoint(self.args.output_dir)
        self.state = TrainerState.load_from_json(os.path.join(self.args.output_dir, "trainer_state.json"))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()

    def create_model_card(self, **ignored):
        # Trainer's own card has no snippet, and says "trained from scratch" of a model that began as a local checkpoint
        if self.is_world_process_zero():
            write_training_card(self.card, self.model, self.args, self.state, self.hub_model_id or self.args.output_dir)


def scale_learning_rates(optimizer, model):
    """
    Gives the parameters of E and F learning rates of their own, which are those of the optimizer times the
    `learning_rate_factor` of their projections. Call it once, before there is a scheduler.
    """
    factors = {
        parameter: module.learning_rate_factor
        for module in model.modules()
        if isinstance(module, LinformerLearnedProjection)
        for parameter in module.parameters()
    }
    for group in list(optimizer.param_groups):
        if group.get("lr") is None:  # Adafactor may find its own
            continue
        for factor in sorted({factors[parameter] for parameter in group["params"] if parameter in factors}):
            own = [parameter for parameter in group["params"] if factors.get(parameter) == factor]
            group["params"] = [parameter for parameter in group["params"] if factors.get(parameter) != factor]
            optimizer.add_param_group({**group, "params": own, "lr": factor * group["lr"]})


def finish(trainer, run, checkpoint, evaluate=None, write=None, predict=None):
    """
    Takes the last steps of a training command, as its arguments say: trains, evaluates, predicts and publishes the model.

    What a run that was killed has done already is not done again.

    Args:
        run: the `run_record.Run`, which is told how far it is.
        checkpoint: where training goes on from, or None.
        evaluate: returns the metrics as a dictionary. By default `trainer.evaluate()`.
        write: writes more files into the folder of a trained model, in the main process.
        predict: writes what the model predicts.

    Returns:
        the metrics, empty if nothing is evaluated.
    """
    args, metrics = trainer.args, {}
    if args.do_train:
        train(trainer, run, checkpoint)
        if write is not None and trainer.is_world_process_zero():
            write()
    if args.do_eval:
        metrics = (evaluate or trainer.evaluate)()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if args.do_predict:
        predict()
    if args.do_train:
        publish(trainer)
    run.end()
    return metrics


def train(trainer, run, checkpoint):
    """
    Trains, from the checkpoint on if there is one, and saves the model, the metrics and the state.

    If the `Run` has ended training before, the model is loaded instead.
    """
    if run.is_trained:
        logger.info(f"The model in {run.folder} is trained, and only what comes after training is left to do")
        trainer.restore()
        return
    run.write()
    steps_before = 0
    if checkpoint is not None:
        logger.info(f"Going on from {checkpoint}")
        steps_before = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json")).global_step
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.check_weights()
    if trainer.state.global_step == steps_before:  # so that Trainer's loss is 0
        result.metrics["train_loss"] = trainer.state.log_history[-1]["train_loss"] = logged_loss(trainer.state.log_history)
    trainer.save_model(_internal_call=True)  # and pushes nothing yet, as a push may fail
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    run.training_ended(trainer.stopped_early)


def logged_loss(log_history):
    """Returns the mean of the training loss over all steps of which it was logged, or nan if it never was."""
    total, last_step = 0.0, 0
    for entry in log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last_step)
            last_step = entry["step"]
    return total / last_step if last_step else math.nan


def publish(trainer):
    """Writes the model card, and pushes everything to the Hub if `--push_to_hub` was given."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    else:
        trainer.create_model_card()


def padding(max_seq_length, pad_to_max_length):
    """Returns the options of a collator that pads to `max_seq_length` or, otherwise, to the longest input of a batch."""
    return {"padding": "max_length", "max_length": max_seq_length} if pad_to_max_length else {}


def pad_to_multiple_of(config, processes, max_seq_length):
    """Returns the multiple of tokens that batches are padded to, so that processes share a sequence evenly."""
    if processes == 1:
        return 1
    multiple = processes * getattr(config, "part_multiple", 1)
    return multiple if max_seq_length % multiple == 0 else max_seq_length
