"""Tests that a model can be pushed to the Hub and loaded where none of the packages is installed, by public calls alone."""

import json
import re
from pydoc_data.topics import topics

import pytest
import torch
from hub_server import Repository
from processes import ROOT, run_python, run_without_packages
from tiny_runs import TINY, TINY_FIELDS


CODE = {f"{name}.py": ROOT / name / f"{name}.py" for name in ("configuration_linformer", "modeling_linformer")}
# transformers 5 has no pipeline for question answering any more: it is one of its REMOVED_TASKS.
PIPELINES = {
    "fill-mask": "LinformerForMaskedLM",
    "text-classification": "LinformerForSequenceClassification",
    "token-classification": "LinformerForTokenClassification",
    "feature-extraction": "LinformerModel",
}

# Pushes a masked-LM model and a tokenizer, then a second model to a branch and a third one over the first, then one that
# Trainer trained for a step, and one per pipeline. Keeps in the folder argv[1] what a puller should get.
PUSH = """
import json, pathlib, sys
import torch
from datasets import Dataset
from pydoc_data.topics import topics
from transformers import Trainer, TrainingArguments, pipeline

import modeling_linformer
from configuration_linformer import LinformerConfig
from transformers_linformer.tokenization import train_tokenizer

folder, tiny, pipelines = pathlib.Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
tokenizer = train_tokenizer(Dataset.from_dict({"text": [topics["assert"]]}), 300, 32)
# The weights are so large that each of them changes the scores
config = LinformerConfig(vocab_size=len(tokenizer), initializer_range=0.5, **tiny)
inputs = dict(tokenizer(["Assert statements are", "a convenient way to insert"], padding=True, return_tensors="pt"))

def make(seed, head="LinformerForMaskedLM"):
    torch.manual_seed(seed)
    return getattr(modeling_linformer, head)(config).eval()

def keep(name, model):
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    torch.save({"weights": model.state_dict(), "inputs": inputs, "logits": logits}, folder / f"{name}.pt")

old, branch, new = make(0), make(1), make(2)
printed = {"old": old.push_to_hub("user/linformer").oid, "pipelines": {}}
keep("old", old)
tokenizer.push_to_hub("user/linformer")
branch.push_to_hub("user/linformer", revision="branch")
keep("branch", branch)
new.push_to_hub("user/linformer")
keep("new", new)
try:
    new.push_to_hub("user/refused", token="hf_wrong")
except Exception as error:
    printed["wrong token"] = str(error)

arguments = TrainingArguments(
    str(folder / "out"), max_steps=1, push_to_hub=True, hub_model_id="user/trained", report_to="none", use_cpu=True
)
example = {"input_ids": inputs["input_ids"][1], "labels": inputs["input_ids"][1]}
trainer = Trainer(make(3), arguments, train_dataset=[example], processing_class=tokenizer)
trainer.train()
trainer.push_to_hub()
keep("trained", trainer.model)

for task, head in pipelines.items():
    model = make(4, head)
    model.push_to_hub(f"user/{task}")
    tokenizer.push_to_hub(f"user/{task}")
    printed["pipelines"][task] = pipeline(task, model, tokenizer=tokenizer)("Assert <mask> are convenient.")
print(json.dumps(printed, default=float))  # some scores are numbers of numpy
"""

# Pulls each revision in argv[2], and pushes the last one under another name, which it pulls, too. Then it tries to pull models
# that cannot be loaded, runs the code in argv[4], and runs the pipeline of each repository in argv[3].
PULL = """
from huggingface_hub import HfApi
from transformers import AutoModelForMaskedLM

folder, revisions, tasks, snippets = pathlib.Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
for name, (repository, revision) in revisions.items():
    model = AutoModelForMaskedLM.from_pretrained(repository, revision=revision, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.user."), type(model)
    with torch.no_grad():
        logits = model(**torch.load(folder / f"{name}.pt")["inputs"]).logits
    torch.save({"weights": model.state_dict(), "logits": logits}, folder / f"{name}.pulled.pt")
model.push_to_hub("user/again")
model = AutoModelForMaskedLM.from_pretrained("user/again", trust_remote_code=True)
torch.save(model.state_dict(), folder / "again.pt")

printed = {"user": HfApi().whoami()["name"], "snippets": {}}
branches = HfApi().list_repo_refs("user/linformer").branches
printed["branches"] = {branch.name: branch.target_commit for branch in branches}
for name in ("untrusted", "without_configuration", "without_modeling", "truncated"):
    try:
        AutoModelForMaskedLM.from_pretrained(f"user/{name}", trust_remote_code=name != "untrusted")
        printed[name] = None
    except Exception as error:
        printed[name] = f"{type(error).__name__}: {error}"
for name, snippet in snippets.items():
    exec(snippet)
    printed["snippets"][name] = type(model.model).__module__
for name, task in tasks.items():
    run = transformers.pipeline(task, f"user/{name}", trust_remote_code=True)
    assert type(run.model).__module__.startswith("transformers_modules.user."), type(run.model)
    printed[name] = run("Assert <mask> are convenient.")
print(json.dumps(printed, default=float))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def pushed(hub, folder):
    printed = run_python(PUSH, folder, folder, json.dumps(TINY_FIELDS), json.dumps(PIPELINES), environment=hub.environment)
    intact = hub.files("user/trained")
    weights = intact["model.safetensors"]
    damages = {
        "untrusted": {},
        "without_configuration": {"configuration_linformer.py": None},
        "without_modeling": {"modeling_linformer.py": None},
        "truncated": {"model.safetensors": weights[: len(weights) // 2]},
    }
    for name, changes in damages.items():
        hub.repositories[f"user/{name}"] = Repository()
        hub.repositories[f"user/{name}"].commit(intact | changes)
    return printed


# Runs each command line of argv[1] in this process, and prints with what those ended that failed.
COMMANDS = """
import json, runpy, sys

ends = []
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        ends.append(error.code)
print(json.dumps(ends))
"""
REFUSED = ("refused", "--hub_token=hf_wrong")
COMMON = ["--do_train", "--do_eval", "--max_steps=2", "--report_to=none", "--use_cpu", "--push_to_hub"]


def pretraining(folder, name, *more):
    """Returns the command line that pretrains a model and pushes it under this name."""
    (folder / "text.txt").write_text(topics["assert"] * 3)
    argv = [str(ROOT / "run_mlm.py"), f"--train_file={folder / 'text.txt'}", f"--config_overrides={TINY}", *COMMON]
    return [*argv, "--vocab_size=300", f"--output_dir={folder / name}", f"--hub_model_id=user/{name}", *more]


@pytest.fixture(scope="module")
def commands(hub, folder):
    """
    Pretrains a model by `run_mlm.py`, fine-tunes it by `run_glue.py`, and pretrains one with a wrong token. Returns the
    errors with which commands ended.
    """
    rows = [f"{word} film,{label}" for word, label in (("good", "positive"), ("bad", "negative")) for _ in range(8)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    fine_tuning = [str(ROOT / "run_glue.py"), f"--train_file={folder / 'reviews.csv'}", *COMMON]
    fine_tuning += [f"--validation_file={folder / 'reviews.csv'}", "--model_name_or_path=user/pretrained"]
    fine_tuning += [f"--output_dir={folder / 'classifier'}", "--hub_model_id=user/classifier"]
    lines = [pretraining(folder, "pretrained", "--save_steps=1"), fine_tuning, pretraining(folder, *REFUSED)]
    return run_python(COMMANDS, folder, json.dumps(lines), environment=hub.environment)


def snippet(hub, name):
    """Returns the code in the model card of a repository."""
    (code,) = re.findall(r"```python\n(.*?)```", hub.files(f"user/{name}")["README.md"].decode(), re.DOTALL)
    return code


@pytest.fixture(scope="module")
def pulled(hub, folder, pushed, commands):
    """Returns the JSON that the puller printed, and its requests to the Hub."""
    before = len(hub.requests)
    revisions = {"new": ("user/linformer", None), "old": ("user/linformer", pushed["old"])}
    revisions |= {"branch": ("user/linformer", "branch"), "trained": ("user/trained", None)}
    tasks = {name: name for name in PIPELINES} | {"pretrained": "fill-mask", "classifier": "text-classification"}
    snippets = {name: snippet(hub, name) for name in ("pretrained", "classifier")}
    arguments = map(json.dumps, (revisions, tasks, snippets))
    printed = run_without_packages(PULL, folder, folder, *arguments, environment=hub.environment)
    return printed, hub.requests[before:]


@pytest.mark.parametrize("name", ["new", "old", "branch", "trained"])
def test_weights_and_logits_come_back(folder, pulled, name):
    wanted, got = torch.load(folder / f"{name}.pt"), torch.load(folder / f"{name}.pulled.pt")
    assert_equal_weights(got["weights"], wanted["weights"])
    torch.testing.assert_close(got["logits"], wanted["logits"], atol=1e-6, rtol=0)


def test_a_commit_and_a_branch_keep_their_own_weights(hub, folder, pushed, pulled):
    names = ("new", "old", "branch")
    first = [torch.load(folder / f"{name}.pulled.pt")["weights"]["lm_head.dense.weight"].sum().item() for name in names]
    assert len(set(first)) == 3, "the three models are the same, so the other tests prove nothing"
    printed, _ = pulled
    assert printed["user"] == "user" and set(printed["branches"]) == {"main", "branch"}
    assert pushed["old"] not in printed["branches"].values()


def test_the_code_is_pulled_from_the_repository(hub, pulled):
    _, requests = pulled
    for name, source in CODE.items():
        fetched = [request for request in requests if request.method == "GET" and request.path.endswith(f"/{name}")]
        assert any(request.path.startswith("/user/linformer/") for request in fetched if request.status == 200), name
        for repository in ("user/linformer", "user/trained", "user/again", *(f"user/{task}" for task in PIPELINES)):
            assert hub.files(repository)[name] == source.read_bytes(), f"{name} of {repository}"


def test_the_puller_can_push(folder, pulled):
    assert_equal_weights(torch.load(folder / "again.pt"), torch.load(folder / "trained.pt")["weights"])


def assert_equal_weights(got, wanted):
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_a_wrong_token(hub, pushed):
    assert "401 Unauthorized" in pushed["wrong token"]
    assert "Invalid username or password" in pushed["wrong token"]
    assert "user/refused" not in hub.repositories


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("untrusted", ["user/untrusted contains custom code", "Please pass the argument `trust_remote_code=True`"]),
        ("without_configuration", ["user/without_configuration does not", "a file named configuration_linformer.py"]),
        ("without_modeling", ["user/without_modeling does not", "a file named modeling_linformer.py"]),
        # safetensors, which does not name the file, says "incomplete metadata" or, in older releases, MetadataIncompleteBuffer
        ("truncated", ["SafetensorError", "etadata"]),
    ],
)
def test_what_cannot_be_loaded_is_explained(pulled, name, messages):
    printed, _ = pulled
    assert printed[name] is not None, "it was loaded"
    for message in messages:
        assert message in printed[name]


@pytest.mark.parametrize("task", PIPELINES)
def test_a_pipeline_gives_the_same_after_the_journey(pushed, pulled, task):
    def close(number):
        return pytest.approx(float(number), abs=1e-6)

    wanted = json.loads(json.dumps(pushed["pipelines"][task]), parse_float=close)
    printed, _ = pulled
    assert printed[task] == wanted and wanted


@pytest.mark.parametrize("name", ["pretrained", "classifier"])
def test_the_scripts_push_what_others_can_load(hub, pulled, name):
    files = hub.files(f"user/{name}")
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", *CODE} <= set(files)
    pickled = {path for path, content in files.items() if content.startswith((b"PK", b"\x80"))}
    assert pickled == {"training_args.bin"}
    assert {path for path in files if not path.endswith((".json", ".md", ".py", ".safetensors"))} == pickled
    printed, _ = pulled
    assert printed["snippets"][name].startswith(f"transformers_modules.user.{name}.")


def test_the_pulled_models_answer(pulled):
    printed, _ = pulled
    assert len(printed["pretrained"]) == 5
    assert printed["classifier"][0]["label"] in ("positive", "negative")


def test_model_cards_tell_origin_data_and_results(hub, folder, commands):
    card = hub.files("user/classifier")["README.md"].decode()
    assert "base_model: user/pretrained" in card and "pipeline_tag: text-classification" in card
    assert "A LinformerForSequenceClassification, trained from `user/pretrained` on reviews.csv and reviews.csv." in card
    results = json.loads((folder / "classifier" / "eval_results.json").read_text())
    assert f"| accuracy | {results['eval_accuracy']:.4g} |" in card and f"| loss | {results['eval_loss']:.4g} |" in card
    card = hub.files("user/pretrained")["README.md"].decode()
    assert "A LinformerForMaskedLM, trained from scratch on text.txt." in card and "base_model" not in card
    assert "| perplexity |" in card and "pipeline_tag: fill-mask" in card
    assert 'model="user/pretrained", trust_remote_code=True, revision="main")' in card


def test_a_wrong_token_for_a_script_is_one_clear_line(commands):
    (error,) = commands
    assert error.startswith("run_mlm.py: error: --push_to_hub: ") and "401" in error and "\n" not in error


@pytest.mark.slow("starts a command for another error of the same line")
def test_a_hub_that_cannot_be_reached_is_one_clear_line(hub, tmp_path):
    def unreachable(cache):
        return hub.environment(cache) | {"HF_ENDPOINT": "http://127.0.0.1:1"}  # where nobody listens

    lines = json.dumps([pretraining(tmp_path, *REFUSED)])
    (error,) = run_python(COMMANDS, tmp_path, lines, environment=unreachable)
    assert error.startswith("run_mlm.py: error: --push_to_hub: ") and "401" not in error and "\n" not in error
