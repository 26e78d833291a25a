"""Tests the pipelines of transformers with saved models, in a process that has nothing but their folders."""

import json
from pydoc_data.topics import topics

import pytest
import torch
from datasets import Dataset
from processes import run_without_packages

import modeling_linformer
from configuration_linformer import LinformerConfig
from transformers_linformer.tokenization import train_tokenizer


N, STRIDE = 48, 8
TEXT = " ".join(topics["assert"].split())  # several times as long as N tokens
NAMES = {  # of the classes of each head
    "LinformerForSequenceClassification": ["contradiction", "neutral", "entailment"],
    "LinformerForTokenClassification": ["O", "B-NAME", "I-NAME"],
}
TOPICS = ["films", "the weather", "programs"]
MASKED = ["An assertion is a <mask>.", "Assertions are<mask> to insert."]

# argv[1] is the folder of the models' folders, argv[2] the inputs
RUN = """
folder = pathlib.Path(sys.argv[1])
text, topics, masked, stride = json.loads(sys.argv[2])


def pipeline(task, head, **options):
    return transformers.pipeline(task, model=str(folder / head), trust_remote_code=True, device="cpu", **options)


found = {}
fill = pipeline("fill-mask", "LinformerForMaskedLM")
assert type(fill.model).__module__.startswith("transformers_modules.")
found["fill-mask"] = [fill(sentence, top_k=3) for sentence in masked]

classify = pipeline("text-classification", "LinformerForSequenceClassification")
found["truncated"] = classify(["Short.", text], truncation=True, top_k=None, batch_size=2)
try:
    classify(text)
except ValueError as error:
    found["not truncated"] = str(error)

ask = pipeline("zero-shot-classification", "LinformerForSequenceClassification")
found["zero-shot-classification"] = ask(text, topics)

tag = pipeline("token-classification", "LinformerForTokenClassification", stride=stride, aggregation_strategy="simple")
found["token-classification"] = [{**entity, "score": float(entity["score"])} for entity in tag(text)]

extract = pipeline("feature-extraction", "LinformerModel", tokenize_kwargs={"truncation": True})
found["feature-extraction"] = extract(["Short.", text])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(
        Dataset.from_dict({"text": [" ".join(topics[name].split()) for name in sorted(topics)[:20]]}), 400, N
    )


@pytest.fixture(scope="module")
def models(tokenizer):
    """Returns models by the names of their heads, with random parameters."""
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": N,
        "projected_dim": 6,
        "block_size": 8,
        "projection_type": "attention_pool",
    }
    models = {}
    generator = torch.Generator().manual_seed(0)
    for head in ("LinformerModel", "LinformerForMaskedLM", *NAMES):
        id2label = dict(enumerate(NAMES.get(head, ["a", "b"])))
        label2id = {name: index for index, name in id2label.items()}
        head_config = LinformerConfig(**config, id2label=id2label, label2id=label2id)
        models[head] = getattr(modeling_linformer, head)(head_config).eval()
        for name, parameter in models[head].named_parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
            values = scale * torch.randn(parameter.shape, generator=generator) + name.endswith("LayerNorm.weight")
            parameter.data.copy_(values)
    return models


@pytest.fixture(scope="module")
def found(models, tokenizer, tmp_path_factory):
    """Returns what the pipelines answer."""
    folder = tmp_path_factory.mktemp("pipelines")
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return run_without_packages(RUN, folder, folder, json.dumps([TEXT, TOPICS, MASKED, STRIDE]))


@torch.no_grad()
def outputs_of(model, tokenizer, *texts):
    """Returns the outputs for one text or one pair of texts, cut at N tokens."""
    return model(**tokenizer(*texts, truncation="only_first" if len(texts) > 1 else True, return_tensors="pt"))


def test_fill_mask(found, models, tokenizer):
    for answers, text in zip(found["fill-mask"], MASKED):
        is_mask = tokenizer(text, return_tensors="pt").input_ids == tokenizer.mask_token_id
        scores = outputs_of(models["LinformerForMaskedLM"], tokenizer, text).logits[is_mask].softmax(-1)[0]
        wanted = scores.topk(3)
        assert [answer["token"] for answer in answers] == wanted.indices.tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(wanted.values.tolist(), abs=1e-5)


def test_text_classification_of_a_long_input(found, models, tokenizer):
    for answers, text in zip(found["truncated"], ("Short.", TEXT)):
        scores = outputs_of(models["LinformerForSequenceClassification"], tokenizer, text).logits.softmax(-1)[0]
        wanted = dict(zip(NAMES["LinformerForSequenceClassification"], scores.tolist()))
        assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(wanted, abs=1e-5)
    length = len(tokenizer(TEXT).input_ids)
    assert f"The input is {length} tokens long, but this model reads at most" in found["not truncated"]


def test_zero_shot_classification(found, models, tokenizer):
    model = models["LinformerForSequenceClassification"]
    hypotheses = [f"This example is {topic}." for topic in TOPICS]
    entailments = torch.cat([outputs_of(model, tokenizer, TEXT, hypothesis).logits[:, 2] for hypothesis in hypotheses])
    wanted = dict(zip(TOPICS, entailments.softmax(0).tolist()))
    answer = found["zero-shot-classification"]
    assert dict(zip(answer["labels"], answer["scores"])) == pytest.approx(wanted, abs=1e-5)


def test_token_classification_with_a_stride(found, models, tokenizer):
    """Compares the tag of each token with those that it has in the windows that it is in, where these agree."""
    model = models["LinformerForTokenClassification"]
    windows = tokenizer(
        TEXT,
        truncation=True,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    assert len(windows.input_ids) > 3
    with torch.no_grad():
        logits = model(windows.input_ids, attention_mask=windows.attention_mask).logits
    tags = {}  # whether each token is tagged as a name, in each of the windows that it is in
    for offsets, window in zip(windows.offset_mapping.tolist(), logits.argmax(-1).tolist()):
        for (start, end), tag in zip(offsets, window):
            if end > start:
                tags.setdefault((start, end), set()).add(tag > 0)
    tagged = {position for entity in found["token-classification"] for position in range(entity["start"], entity["end"])}
    sure = {span: next(iter(tag)) for span, tag in tags.items() if len(tag) == 1}
    assert len(sure) > 0.8 * len(tags) and set(sure.values()) == {False, True}
    assert any(start > len(TEXT) // 2 for start, end in sure)
    for (start, end), is_name in sure.items():
        assert (end - 1 in tagged) == is_name, TEXT[start:end]
    for entity in found["token-classification"]:
        assert entity["entity_group"] == "NAME"
        assert TEXT[entity["start"] : entity["end"]].strip() == entity["word"].strip()


def test_feature_extraction(found, models, tokenizer):
    for rows, text in zip(found["feature-extraction"], ("Short.", TEXT)):
        wanted = outputs_of(models["LinformerModel"], tokenizer, text).last_hidden_state
        torch.testing.assert_close(torch.tensor(rows), wanted, atol=1e-5, rtol=0)
