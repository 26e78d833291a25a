# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The tasks of long_documents.py: each trains a model for one split of its documents, and judges it on the rest."""

import copy
import re
from functools import cached_property

import numpy
import torch
from datasets import load_dataset
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn

from .reading import Reader, autocast, batches_of, cut_into_parts, cut_into_pieces, mean_of_documents, read, train


class Task:
    """
    Is the base class of the tasks.

    `run(model, split, checkpoint)` trains and judges one model, and returns the scores of the readings that it is judged by.
    It continues from the file `checkpoint` if a run that was killed left it. The models are:

        words: what counts words, without an encoder
        first: the original, trained and judged on the first piece of each document
        pieces: the original, trained on pieces; afterwards it is also converted, and reads complete documents untrained
        together: the original, trained on what the pieces of a document say together (not in all tasks)
        whole: the Linformer, trained on complete documents in the same way as `pieces`
        whole_together: the Linformer, trained in the same way as `together`

    Attributes:
        metric: the name of the score.
        max_pieces: longer documents are cut there, for all models.
        epochs, batch_size, learning_rate: the same for all models; the batch size counts documents.
        splits: the number of splits.
        in_parts: whether the losses of a document do not depend on its batch, so that a batch can be computed in parts.
    """

    models = ("words", "first", "pieces", "whole", "together", "whole_together")
    higher_is_better = True
    max_pieces, batch_size, learning_rate, splits = 8, 16, 1e-4, 5
    kept_pieces = None  # of a document, if more than a model reads at once
    in_parts = False

    def __init__(self, original, tokenizer, data_dir, device, projected_dim):
        self.original, self.tokenizer, self.data_dir, self.device = original, tokenizer, data_dir, device
        self.projected_dim = projected_dim

    def load(self, name, config, split):
        return load_dataset(f"{self.data_dir}/{name}", config, split=split)

    @cached_property
    def documents(self):
        """The pieces of each document, (pieces, 512) token ids."""
        tokens = self.tokenizer(list(self.texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [cut_into_pieces(each, self.tokenizer, self.kept_pieces or self.max_pieces) for each in tokens]

    def new_reader(self, whole):
        reader = Reader(copy.deepcopy(self.original), self.tokenizer.pad_token_id)
        return self.whole(reader) if whole else reader

    def whole(self, reader):
        return reader.as_linformer(self.max_pieces, self.projected_dim)

    def parts(self, split):
        """Returns the numbers of the documents to train on, and of those to judge by."""
        order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(split)).tolist()
        return order[self.judged :], order[: self.judged]

    def batches(self, numbers, split, documents):
        generator = torch.Generator().manual_seed(split)
        own = [documents[i] for i in numbers]
        batches = [batch for _ in range(self.epochs) for batch in batches_of(own, self.batch_size, generator)]
        return [self.parts_of([numbers[i] for i in batch], documents) for batch in batches]

    def parts_of(self, batch, documents):
        """
        Returns the parts in which a batch is trained on. On a CPU, small parts take less memory and have less padding. On a
        GPU, large ones are faster.
        """
        if self.device.type == "cpu" and self.in_parts:
            return cut_into_parts(batch, documents, self.tokenizer.pad_token_id)
        return [batch]

    def run(self, model, split, checkpoint):
        torch.manual_seed(split)
        return self.judge_words(split) if model == "words" else self.train_and_judge(model, split, checkpoint)


class Classification(Task):
    """Says what a document is, from the mean of its tokens. The score is the accuracy."""

    metric, in_parts = "accuracy", True

    def judge_words(self, split):
        training, judged = self.parts(split)
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
        features = words.fit_transform(self.texts[i] for i in training)
        judged_features = words.transform(self.texts[i] for i in judged)
        known, answers = (numpy.array(self.labels)[part] for part in (training, judged))
        fifth = len(training) // 5  # the regularisation is chosen on a fifth of the training part

        def fitted(C, start):
            return LogisticRegression(C=C, max_iter=1000).fit(features[start:], known[start:])

        best = max((1, 10, 100), key=lambda C: fitted(C, fifth).score(features[:fifth], known[:fifth]))
        return {"TF-IDF and logistic regression": fitted(best, 0).score(judged_features, answers)}

    def train_and_judge(self, model, split, checkpoint):
        reader = self.new_reader(whole=model.startswith("whole"))
        classes = max(self.labels) + 1
        head = nn.Sequential(nn.Dropout(0.1), nn.Linear(self.original.config.hidden_size, classes)).to(self.device)
        labels = torch.tensor(self.labels, device=self.device)
        documents = [document[:1] for document in self.documents] if model == "first" else self.documents
        training, judged = self.parts(split)

        def losses(part):
            vectors, owner, share = reader([documents[i] for i in part])
            logits = head(vectors)
            if model in ("pieces", "whole"):  # each piece is to say by itself what the document is
                of_pieces = nn.functional.cross_entropy(logits.float(), labels[part][owner], reduction="none")
                return mean_of_documents(of_pieces, owner, share, len(part))
            means = mean_of_documents(logits, owner, share, len(part))
            return nn.functional.cross_entropy(means, labels[part], reduction="none")

        train(reader, head, losses, self.batches(training, split, documents), self.learning_rate, checkpoint)

        @torch.no_grad()
        def accuracies(reader):
            """Returns the accuracies of the mean logits, and of the logits of the most confident piece."""
            vectors, owner, share = read(reader.eval(), [documents[i] for i in judged])
            logits = head(vectors)
            confidence = logits.softmax(-1).amax(-1)
            best = torch.stack([confidence.where(owner == i, 0).argmax() for i in range(len(judged))])
            readings = (mean_of_documents(logits, owner, share, len(judged)), logits[best])
            return [(each.argmax(-1) == labels[judged]).float().mean().item() for each in readings]

        averaged, best = accuracies(reader)
        if model == "first":
            return {"the first piece": averaged}
        name = "complete" if reader.is_linformer else "pieces"
        if model.endswith("together"):
            return {f"{name}, trained together": averaged}
        scores = {f"{name}, averaged": averaged, f"{name}, the best": best}
        if model == "pieces":
            averaged, best = accuracies(self.whole(reader))
            scores |= {"complete, averaged, untrained": averaged, "complete, the best, untrained": best}
        return scores


class MovieReviews(Classification):
    """Is a review of a film positive? 1,400 of 1,800 reviews are trained on."""

    epochs, max_pieces, judged = 3, 5, 400

    def __init__(self, *args):
        super().__init__(*args)
        parts = [self.load("movie_reviews", None, split) for split in ("train", "validation")]
        self.texts = [text for part in parts for text in part["text"]]
        self.labels = [label for part in parts for label in part["label"]]


class Contracts(Task):
    """Reads contracts without their first 1,000 characters, which mostly say what type of contract it is."""

    splits, judged = 3, 153

    def __init__(self, *args):
        super().__init__(*args)
        parts = [self.load("cuad", None, split) for split in ("train", "test")]
        self.texts = [text[1000:] for part in parts for text in part["text"]]
        self.labels = [label for part in parts for label in part["label"]]


class ContractTypes(Contracts, Classification):
    """Which of 25 types is a contract of?"""

    epochs, learning_rate = 8, 2e-4


class Retrieval(Task):
    """
    Finds the meeting of QMSum that a query is about, among the meetings that were not trained on. The score is nDCG@10. Each
    split judges by another fifth of the meetings.

    A document is as similar to a query as its mean vector is, or as the most similar of its pieces. Training minimises the
    sum of the cross-entropies of both, among the documents of a batch.
    """

    metric, models = "nDCG@10", ("words", "first", "pieces", "whole")
    max_pieces, epochs, learning_rate, temperature = 16, 4, 5e-5, 0.05

    def __init__(self, *args):
        super().__init__(*args)
        corpus = self.load("qmsum", "corpus", "train")
        self.texts, doc_ids = corpus["text"], list(corpus["doc_id"])
        queries = self.load("qmsum", "queries", "train").filter(lambda query: query["kind"] == "specific")
        self.queries, self.about = list(queries["text"]), [doc_ids.index(doc_id) for doc_id in queries["doc_id"]]

    def parts(self, split):
        order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(0)).tolist()
        judged = order[split :: self.splits]
        return [i for i in order if i not in judged], judged

    @cached_property
    def pieces_of_queries(self):
        tokens = self.tokenizer(self.queries, add_special_tokens=False)["input_ids"]
        return [cut_into_pieces(each, self.tokenizer, 1) for each in tokens]

    def ndcg(self, scores, judged):
        """Returns the mean nDCG@10 of the judged documents' queries. `scores` are (queries, judged documents)."""
        relevant = torch.tensor([judged.index(about) for about in self.about if about in judged], device=scores.device)
        ranks = 1 + (scores > scores.gather(1, relevant.unsqueeze(1))).sum(1)
        return torch.where(ranks <= 10, 1 / torch.log2(1 + ranks.double()), 0).mean().item()

    def judge_words(self, split):
        judged = self.parts(split)[1]
        words = CountVectorizer()
        counts = words.fit_transform([self.texts[i] for i in judged]).toarray()
        queries = words.transform([q for q, about in zip(self.queries, self.about, strict=True) if about in judged])
        lengths = counts.sum(1, keepdims=True)
        inverse_frequency = numpy.log(1 + (len(judged) - (counts > 0).sum(0) + 0.5) / ((counts > 0).sum(0) + 0.5))
        weights = inverse_frequency * counts * 2.2 / (counts + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
        return {"BM25": self.ndcg(torch.from_numpy(queries @ weights.T), judged)}

    def similarities(self, queries, count, vectors, owner, share):
        """Returns the cosine similarities of queries (q, d) to `count` documents, (q, count): to means, and to best pieces."""
        queries, vectors = (nn.functional.normalize(x.float(), dim=-1) for x in (queries, vectors))
        means = nn.functional.normalize(mean_of_documents(vectors, owner, share, count), dim=-1)
        pieces = queries @ vectors.T
        best = pieces.new_full((len(queries), len(means)), -1.0).scatter_reduce(1, owner.expand_as(pieces), pieces, "amax")
        return queries @ means.T, best

    def train_and_judge(self, model, split, checkpoint):
        reader = self.new_reader(whole=model == "whole")
        documents = [document[:1] for document in self.documents] if model == "first" else self.documents
        training, judged = self.parts(split)
        untrained = self.scores(reader, documents, judged)
        if model == "pieces":
            converted = self.scores(self.whole(reader), documents, judged)
        queries_of = {i: [q for q, about in enumerate(self.about) if about == i] for i in training}
        generator = torch.Generator().manual_seed(split)

        def losses(batch):
            # Four queries of each document at most
            chosen = [
                (queries_of[i][j], place)
                for place, i in enumerate(batch)
                for j in torch.randperm(len(queries_of[i]), generator=generator)[:4].tolist()
            ]
            if not chosen:  # some meetings have general queries only
                return 0 * next(reader.parameters()).sum().unsqueeze(0)
            queries = reader([self.pieces_of_queries[q] for q, _ in chosen])[0]
            target = torch.tensor([place for _, place in chosen], device=self.device)
            similarities = self.similarities(queries, len(batch), *reader([documents[i] for i in batch]))
            of_both = (each / self.temperature for each in similarities)
            return sum(nn.functional.cross_entropy(each, target, reduction="none") for each in of_both)

        train(reader, None, losses, self.batches(training, split, documents), self.learning_rate, checkpoint, generator)
        trained = self.scores(reader, documents, judged)
        if model == "first":
            return {"the first piece, untrained": untrained[0], "the first piece": trained[0]}
        name = {"pieces": "pieces", "whole": "complete"}[model]
        scores = {f"{name}, averaged": trained[0], f"{name}, the best": trained[1]}
        if model == "pieces":
            scores |= {"pieces, averaged, untrained": untrained[0], "pieces, the best, untrained": untrained[1]}
            scores |= {"complete, averaged, untrained": converted[0], "complete, the best, untrained": converted[1]}
        return scores

    @torch.no_grad()
    def scores(self, reader, documents, judged):
        """Returns the nDCG@10 by the mean of a document, and by the best of its pieces."""
        reader.eval()
        asked = [i for i, about in enumerate(self.about) if about in judged]
        queries = read(reader, [self.pieces_of_queries[i] for i in asked], 64)[0]
        similarities = self.similarities(queries, len(judged), *read(reader, [documents[i] for i in judged], 8))
        return [self.ndcg(each, judged) for each in similarities]


class ReplacedPiece(Contracts):
    """
    Says whether a piece of a contract was replaced by a piece of another contract, and which of eight pieces in a row it is.

    Each piece's vector is compared with the mean of the others': a small network reads both, their product and the absolute
    value of their difference. The score is the accuracy among nine answers; half of the documents are untouched. Untrained
    encoders, and TF-IDF, name the piece that is least similar to the others, if it is below a threshold that fits the
    training part best.
    """

    metric, models, in_parts = "accuracy", ("words", "pieces", "whole"), True
    kept_pieces, steps, judged_windows = 64, 200, 600

    def windows(self, numbers, count, generator):
        """Returns documents of eight pieces, and the number of the replaced piece of each, or 8 if none was replaced."""
        long = [self.documents[i][:-1] for i in numbers if len(self.documents[i]) > self.max_pieces]  # the last may be short

        def random(high):
            return int(torch.randint(high, (), generator=generator))

        made, answers = [], []
        for _ in range(count):
            own = random(len(long))
            start = random(len(long[own]) - self.max_pieces + 1)
            window, answer = long[own][start : start + self.max_pieces], self.max_pieces
            if random(2):
                other = long[(own + 1 + random(len(long) - 1)) % len(long)]
                window, answer = window.clone(), random(self.max_pieces)
                window[answer] = other[random(len(other))]
            made.append(window)
            answers.append(answer)
        return made, torch.tensor(answers, device=self.device)

    def made_for(self, split):
        """Returns what to train on and what to judge by, as documents and answers. It is the same for all models."""
        generator = torch.Generator().manual_seed(split)
        training, judged = self.parts(split)
        count = self.steps * self.batch_size
        return self.windows(training, count, generator), self.windows(judged, self.judged_windows, generator)

    @staticmethod
    def compare(vectors):
        """Returns the vectors (documents, pieces, d), and for each the mean of the others."""
        return vectors, (vectors.sum(1, keepdim=True) - vectors) / (vectors.shape[1] - 1)

    def judge_by_similarity(self, of_documents, training, judged):
        """Names the piece that is least similar to the others, if it is below a threshold that fits the training part."""

        def least(documents):
            vectors = nn.functional.normalize(of_documents(documents), dim=-1)
            return nn.functional.cosine_similarity(*self.compare(vectors), dim=-1).min(-1)

        values, places = least(training[0][: self.judged_windows])
        answers = training[1][: self.judged_windows]
        accuracies = [((places == answers) & (values <= t) | (answers == 8) & (values > t)).sum() for t in values]
        threshold = values[torch.stack(accuracies).argmax()]
        values, places = least(judged[0])
        return (places.masked_fill(values > threshold, 8) == judged[1]).float().mean().item()

    def judge_words(self, split):
        training, judged = self.made_for(split)

        def text(piece):
            return self.tokenizer.decode(piece, skip_special_tokens=True)

        words = TfidfVectorizer(sublinear_tf=True).fit([text(piece) for document in training[0][:400] for piece in document])

        def of_documents(documents):
            rows = words.transform([text(piece) for document in documents for piece in document]).toarray()
            return torch.from_numpy(rows).to(self.device).unflatten(0, (len(documents), -1))

        return {"TF-IDF": self.judge_by_similarity(of_documents, training, judged)}

    def train_and_judge(self, model, split, checkpoint):
        reader = self.new_reader(whole=model == "whole")
        training, judged = self.made_for(split)

        name = {"pieces": "pieces, compared", "whole": "complete"}[model]

        def read_documents(documents):
            return read(reader.eval(), documents)[0].unflatten(0, (len(documents), -1))

        untrained = self.judge_by_similarity(read_documents, training, judged)
        d = self.original.config.hidden_size
        network = nn.Sequential(nn.Linear(4 * d, d), nn.GELU()).to(self.device)
        of_piece, of_none = (nn.Linear(d, 1).to(self.device) for _ in range(2))

        def logits(vectors):
            own, others = self.compare(vectors)
            hidden = network(torch.cat([own, others, own * others, (own - others).abs()], dim=-1))
            return torch.cat([of_piece(hidden).squeeze(-1), of_none(hidden.mean(1))], dim=-1).float()

        def losses(part):
            vectors = reader([training[0][i] for i in part])[0].unflatten(0, (len(part), -1))
            return nn.functional.cross_entropy(logits(vectors), training[1][part], reduction="none")

        count = len(training[0])
        starts = range(0, count, self.batch_size)
        batches = [self.parts_of(list(range(i, i + self.batch_size)), training[0]) for i in starts]
        train(reader, nn.ModuleList([network, of_piece, of_none]), losses, batches, self.learning_rate, checkpoint)
        with torch.no_grad():
            score = (logits(read_documents(judged[0])).argmax(-1) == judged[1]).float().mean().item()
        return {name: score, f"{name}, untrained": untrained}


class MaskedWords(Task):
    """
    Fills masks in articles of WikiText-2. The score is the perplexity of the masked tokens, which are 15 % of all.

    The head of the masked-LM is new, as sentence encoders have none. Its output matrix is that of the embeddings.
    """

    metric, models, higher_is_better, in_parts = "perplexity", ("words", "pieces", "whole"), False, True
    epochs, batch_size, learning_rate, splits, judged = 3, 8, 2e-4, 3, 80

    def __init__(self, *args):
        super().__init__(*args)
        lines = [line for split in ("train", "validation") for line in self.load("wikitext", "wikitext-2-v1", split)["text"]]
        starts = [i for i, line in enumerate(lines) if re.fullmatch(" = [^=]+ = \n", line)]
        articles = ["".join(lines[i:j]) for i, j in zip(starts, [*starts[1:], len(lines)], strict=True)]
        self.texts = [article.replace("<unk>", self.tokenizer.unk_token) for article in articles]

    def masked(self, document, generator):
        """Returns the document with masks, and what stands at the masks, or -100 elsewhere."""
        special = torch.tensor(self.tokenizer.all_special_ids)
        chosen = torch.rand(document.shape, generator=generator) < 0.15
        chosen &= ~torch.isin(document, special)
        return document.masked_fill(chosen, self.tokenizer.mask_token_id), document.masked_fill(~chosen, -100)

    def judged_documents(self, split):
        generator = torch.Generator().manual_seed(split)
        return [self.masked(self.documents[i], generator) for i in self.parts(split)[1]]

    def judge_words(self, split):
        counts = torch.ones(len(self.tokenizer), dtype=torch.float64)
        for i in self.parts(split)[0]:
            counts += torch.bincount(self.documents[i].flatten(), minlength=len(counts))
        answers = torch.cat([answers[answers >= 0] for _, answers in self.judged_documents(split)])
        return {"how frequent words are": (counts.sum() / counts)[answers].log().mean().exp().item()}

    def train_and_judge(self, model, split, checkpoint):
        reader = self.new_reader(whole=model == "whole")
        d = self.original.config.hidden_size
        head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.LayerNorm(d)).to(self.device)
        bias = nn.ParameterList([torch.zeros(len(self.tokenizer), device=self.device)])
        training = self.parts(split)[0]
        generator = torch.Generator().manual_seed(split)

        def losses_of(reader, masked):
            documents, answers = zip(*masked, strict=True)
            hidden, mask = reader.hidden_states(documents)
            answers = torch.cat(answers)[:, : mask.shape[1]].flatten()
            places = (answers >= 0).nonzero().squeeze(1)
            rows = head(hidden.flatten(0, 1).index_select(0, places.to(self.device)))
            words = reader.encoder.get_input_embeddings().weight
            logits = nn.functional.linear(rows, words, bias[0])
            return nn.functional.cross_entropy(logits.float(), answers[places].to(self.device), reduction="none")

        def losses(part):
            return losses_of(reader, [self.masked(self.documents[i], generator) for i in part])

        batches = self.batches(training, split, self.documents)
        train(reader, nn.ModuleList([head, bias]), losses, batches, self.learning_rate, checkpoint, generator)
        judged = self.judged_documents(split)

        @torch.no_grad()
        def perplexity(reader):
            reader.eval()
            with autocast(self.device):
                parts = [losses_of(reader, judged[start : start + 8]) for start in range(0, len(judged), 8)]
            return torch.cat(parts).mean().exp().item()

        if model == "whole":
            return {"complete": perplexity(reader)}
        return {"pieces": perplexity(reader), "complete, untrained": perplexity(self.whole(reader))}


TASKS = {
    "movie_reviews": MovieReviews,
    "cuad": ContractTypes,
    "qmsum": Retrieval,
    "replaced_piece": ReplacedPiece,
    "masked_words": MaskedWords,
}
