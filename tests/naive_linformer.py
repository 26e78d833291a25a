"""
Equation 7 of the paper as it is written, one head, one slot and one row at a time: the model is compared with it.

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_head) ) . F_i V W_i^V

Features are projected first (K W^K, then E), over the real tokens of one sequence only, so neither the exchange of the
two projections nor any mask of the model is repeated here. Plain torch operations on the model's own parameters:
gradients flow.
"""

import math

import torch


def naive_forward(model, input_ids):
    """The last hidden states (n', d) of a `LinformerModel` without dropout, for one sequence (n',) without padding."""
    rows = naive_embeddings(model.embeddings, input_ids)
    for index, layer in enumerate(model.encoder.layer):
        attended = naive_self_attention(model, index, rows)
        output = layer.attention.output
        rows = layer_norm(output.LayerNorm, linear(output.dense, attended) + rows)
        widened = gelu(linear(layer.intermediate.dense, rows))
        rows = layer_norm(layer.output.LayerNorm, linear(layer.output.dense, widened) + rows)
    return rows


def naive_embeddings(embeddings, input_ids):
    rows = []
    for position, token in enumerate(input_ids):
        rows.append(
            embeddings.word_embeddings.weight[token]
            + embeddings.position_embeddings.weight[position]
            + embeddings.token_type_embeddings.weight[0]
        )
    return layer_norm(embeddings.LayerNorm, torch.stack(rows))


def naive_self_attention(model, index, rows):
    config, attention = model.config, model.encoder.layer[index].attention.self
    d_head = config.hidden_size // config.num_attention_heads
    query, key, value = (linear(module, rows) for module in (attention.query, attention.key, attention.value))

    segments = content_segments(rows, config.projected_dims[index])
    heads = []
    for head in range(config.num_attention_heads):
        features = slice(head * d_head, (head + 1) * d_head)
        E, F = projection_weights(model, index, head)
        if config.projection_type == "attention_pool":
            E = F = attention_pool_weights(segments, query[:, features], key[:, features])
        projected_key = project(config, index, E, key[:, features], segments)
        projected_value = project(config, index, F, value[:, features], segments)
        attended = []
        for row in query[:, features]:
            scores = torch.stack([row @ slot / math.sqrt(d_head) for slot in projected_key])
            weights = scores.exp()
            if config.projection_type == "segment_pool":
                weights = weights * torch.tensor([len(segment) for segment in segments])
            if config.projection_type == "attention_pool":
                weights = weights * torch.stack([entropy(row).exp() for row in E])
            weights = weights / weights.sum()
            attended.append(sum(weight * slot for weight, slot in zip(weights, projected_value, strict=True)))
        heads.append(torch.stack(attended))
    return torch.cat(heads, dim=-1)


def projection_weights(model, index, head):
    """The weights of E_i and F_i for one head of one layer; None for poolings, which have no parameters."""
    config, attention = model.config, model.encoder.layer[index].attention.self
    if config.projection_type.endswith("_pool"):
        return None, None
    if config.projection_sharing == "layerwise":
        return model.encoder.E.weight, model.encoder.E.weight
    if config.projection_sharing == "key_value":
        return attention.E.weight, attention.E.weight
    if config.projection_sharing == "headwise":
        return attention.E.weight, attention.F.weight
    return attention.E.weight[head], attention.F.weight[head]


def project(config, index, weight, rows, segments):
    """The list of projected rows: k of them, or fewer where a short sequence leaves windows without a token."""
    n, k = config.max_position_embeddings, config.projected_dims[index]
    if config.projection_type in ("linear", "attention_pool"):
        k = len(weight)
        return [sum(weight[slot, token] * row for token, row in enumerate(rows)) for slot in range(k)]
    if config.projection_type == "conv":
        return [
            sum(kernel * row for kernel, row in zip(weight, rows[start : start + n // k], strict=False))
            for start in range(0, len(rows), n // k)
        ]
    windows = segments if config.projection_type == "segment_pool" else pooling_windows(len(rows), k)
    windows = [torch.stack([rows[token] for token in window]) for window in windows]
    return [window.amax(0) if config.projection_type == "max_pool" else window.mean(0) for window in windows]


def attention_pool_weights(segments, query, key):
    """E_i = F_i of a head: each segment's softmax of the scores for the mean query, one row a segment."""
    mean_query = sum(query) / len(query)
    weights = []
    for segment in segments:
        scores = {token: (mean_query @ key[token] / math.sqrt(len(mean_query))).exp() for token in segment}
        zero = key.new_zeros(())
        weights.append(torch.stack([scores.get(token, zero) for token in range(len(key))]) / sum(scores.values()))
    return torch.stack(weights)


def entropy(weights):
    return -sum(weight * weight.log() for weight in weights if weight > 0)


def pooling_windows(length, k):
    """Which tokens each window holds: the first token has its own, the others share the rest evenly."""
    windows, others = [[0]], range(1, length)
    rest = min(k, length) - 1
    for window in range(rest):
        windows.append(others[window * len(others) // rest : (window + 1) * len(others) // rest])
    return windows


def content_segments(rows, k):
    """Which tokens each segment of `segment_pool` holds: it begins at token 0, 1, or where the greatest steps are."""
    steps = {token: torch.dist(rows[token], rows[token - 1]).item() for token in range(2, len(rows))}
    starts = sorted([0, 1, *sorted(steps, key=steps.get, reverse=True)[: k - 2]])[: min(k, len(rows))]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]


def linear(module, rows):
    return rows @ module.weight.T + module.bias


def layer_norm(module, rows):
    centred = rows - rows.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + module.eps).sqrt() * module.weight + module.bias


def gelu(rows):
    return rows * (1 + torch.erf(rows / math.sqrt(2))) / 2
