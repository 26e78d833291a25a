"""
Computes the attention literally as the formula says, one head, one block and one token at a time. The tests compare the model
with it.

    head_i(B) = softmax( [ Q_B K_B^T / sqrt(d_head) , Q_B (E_i K)^T / sqrt(d_head) + log c_B ] ) . [ V_B ; F_i V ]

K_B and V_B are the keys and values of the tokens of block B, and of the global tokens outside of it. Without blocks and global
tokens this is equation 7 of the paper. The features are projected first (K W^K), then the sequence (by E), and one sequence at
a time is computed, without padding. So neither the model's exchange of these two steps nor any of its masks is
repeated here. All operations are plain torch operations on the model's own parameters, so that gradients flow.
"""

import math

import torch


def naive_forward(model, input_ids):
    """Returns the last hidden states (n', d) of a `LinformerModel` without dropout for one sequence (n',) without padding."""
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

    block_size, length = config.block_sizes[index], len(rows)
    heads = []
    for head in range(config.num_attention_heads):
        features = slice(head * d_head, (head + 1) * d_head)
        queries, keys, values = (list(each[:, features]) for each in (query, key, value))
        E, F = projection_weights(model, index, head)
        if config.projection_type in ("attention_pool", "hard_attention_pool"):
            E = F = attention_pool_weights(row_windows(config, index, length), queries, keys)
        if config.projection_type == "hard_attention_pool":
            E = F = (E == E.amax(-1, keepdim=True)).to(E.dtype)
        projected_keys, projected_values = project(config, index, E, keys), project(config, index, F, values)
        sizes = row_sizes(config, index, E, length)
        attended = []
        for token in range(length):
            seen = block_of(token, block_size, length)
            seen += [other for other in range(min(config.num_global_tokens, length)) if other not in seen]
            attended_keys, attended_values = [keys[other] for other in seen], [values[other] for other in seen]
            counts, positions = [1.0] * len(seen), list(seen)
            for row, count in enumerate(row_counts(config, index, sizes, seen, length)):
                if count > 0:
                    attended_keys.append(projected_keys[row])
                    attended_values.append(projected_values[row])
                    counts.append(count)
                    positions.append(middle_of_window(config, index, row))
            scores = [queries[token] @ other / math.sqrt(d_head) for other in attended_keys]
            if config.relative_attention_num_buckets is not None:
                table = model.encoder.relative_attention_bias.weight
                biases = [0 if other is None else table[bucket(other - token, len(table)), head] for other in positions]
                scores = [score + bias for score, bias in zip(scores, biases, strict=True)]
            weights = [count * score.exp() for count, score in zip(counts, scores, strict=True)]
            weighted = [weight * other for weight, other in zip(weights, attended_values, strict=True)]
            attended.append(sum(weighted) / sum(weights))
        heads.append(torch.stack(attended))
    return torch.cat(heads, dim=-1)


def block_of(token, block_size, length):
    """Returns the tokens of the block that a token is in, or none without blocks."""
    if block_size == 0:
        return []
    start = token // block_size * block_size
    return list(range(start, min(start + block_size, length)))


def row_sizes(config, index, E, length):
    """Returns for how many tokens each projected row stands, where a token sees none of them exactly."""
    k, has_blocks = config.projected_dims[index], config.block_sizes[index] > 0
    if config.projection_type == "linear":
        return [1.0] * k
    if config.projection_type in ("attention_pool", "hard_attention_pool"):
        return [entropy(weights.detach()).exp() for weights in E]
    counts_tokens = has_blocks and config.projection_type != "conv"
    return [float(len(window)) if counts_tokens else 1.0 for window in row_windows(config, index, length)]


def row_counts(config, index, sizes, seen, length):
    """Returns how often each projected row counts in the softmax of a token that sees the tokens `seen` exactly."""
    outside = length - len(seen)
    if config.projection_type == "linear":
        return [size if outside > 0 else 0.0 for size in sizes]
    windows = row_windows(config, index, length)
    counts = [0.0 if set(window) & set(seen) else size for window, size in zip(windows, sizes, strict=True)]
    if config.block_sizes[index] > 0 and config.far_token_limit is not None and outside > config.far_token_limit:
        counts = [count * config.far_token_limit / outside for count in counts]
    return counts


def middle_of_window(config, index, row):
    """Returns the position in the middle of a row's window, or None for a row of `linear`, which has no window."""
    if config.projection_type == "linear":
        return None
    size = config.max_position_embeddings // config.projected_dims[index]
    return row * size + (size - 1) // 2


def bucket(distance, buckets):
    """Returns the bucket of MPNet and T5 for a key `distance` tokens to the right of its query, with a maximum of 128."""
    side, steps = buckets // 2 if distance > 0 else 0, abs(distance)
    exact = buckets // 4
    if steps < exact:
        return side + steps
    logarithm = math.log(steps / exact) / math.log(128 / exact)
    return side + min(exact + math.floor(logarithm * (buckets // 2 - exact)), buckets // 2 - 1)


def projection_weights(model, index, head):
    """Returns the weights of E_i and F_i for one head of one layer, or None for each in poolings, which have no parameters."""
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


def project(config, index, weight, rows):
    """Returns the list of k projected rows, or of fewer if a sequence is too short to have a token in each window."""
    n, k = config.max_position_embeddings, config.projected_dims[index]
    if config.projection_type in ("linear", "attention_pool", "hard_attention_pool"):
        return [sum(weight[row, token] * features for token, features in enumerate(rows)) for row in range(len(weight))]
    if config.projection_type == "conv":
        return [
            sum(kernel * row for kernel, row in zip(weight, rows[start : start + n // k], strict=False))
            for start in range(0, len(rows), n // k)
        ]
    windows = [torch.stack([rows[token] for token in window]) for window in row_windows(config, index, len(rows))]
    return [window.amax(0) if config.projection_type == "max_pool" else window.mean(0) for window in windows]


def attention_pool_weights(windows, queries, keys):
    """Returns E_i = F_i of a head, whose row for each window is the softmax of the window's scores for its mean query."""
    weights = []
    for window in windows:
        mean_query = sum(queries[token] for token in window) / len(window)
        scores = {token: (mean_query @ keys[token] / math.sqrt(len(mean_query))).exp() for token in window}
        zero = mean_query.new_zeros(())
        weights.append(torch.stack([scores.get(token, zero) for token in range(len(keys))]) / sum(scores.values()))
    return torch.stack(weights)


def entropy(weights):
    return -sum(weight * weight.log() for weight in weights if weight > 0)


def row_windows(config, index, length):
    """Returns a list of the tokens in each window of n / k positions. The last one may be shorter."""
    size = config.max_position_embeddings // config.projected_dims[index]
    return [list(range(start, min(start + size, length))) for start in range(0, length, size)]


def linear(module, rows):
    return rows @ module.weight.T + module.bias


def layer_norm(module, rows):
    centred = rows - rows.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + module.eps).sqrt() * module.weight + module.bias


def gelu(rows):
    return rows * (1 + torch.erf(rows / math.sqrt(2))) / 2
