"""What the package computes, once more: slow, obvious, in plain Python numbers and lists."""

from fractions import Fraction


def exact(fraction):
    """The number that was meant: 7/10 for 0.7, and for what 1 - 0.3 gives."""
    return Fraction(fraction).limit_denominator(10**12)


def kept_of(sparsity, n):
    """How many of `n` are kept."""
    return round((1 - exact(sparsity)) * n)


def keep_top(scores, sparsity, within=None, per="all"):
    """Name to list of bools: the first `round((1 - sparsity) * n)` entries by (-score, reading order)."""
    if per == "tensor":
        alone = {name: None if within is None else {name: within[name]} for name in scores}
        return {name: keep_top({name: scores[name]}, sparsity, alone[name])[name] for name in scores}
    entries = [
        (-value, tensor, index, name)
        for tensor, (name, values) in enumerate(scores.items())
        for index, value in enumerate(values)
    ]
    kept = kept_of(sparsity, len(entries))
    allowed = [entry for entry in sorted(entries) if within is None or within[entry[3]][entry[2]]]
    if kept > len(allowed):
        raise ValueError("fewer entries are allowed than are to be kept")
    masks = {name: [False] * len(values) for name, values in scores.items()}
    for _, _, index, name in allowed[:kept]:
        masks[name][index] = True
    return masks


def platon(thetas, grads, interval, beta1, beta2):
    """One weight's running sensitivity and uncertainty after each step, as in the authors' `Pruner.py`."""
    current, sensitivity, uncertainty, history = 0.0, 0.0, 0.0, []
    for step, (theta, grad) in enumerate(zip(thetas, grads, strict=True), start=1):
        observed = abs(theta * grad)
        seen = step % interval
        if seen == 0:
            sensitivity = beta1 * sensitivity + (1 - beta1) * current
            uncertainty = beta2 * uncertainty + (1 - beta2) * abs(current - sensitivity)
            current = observed
        else:
            current = (current * seen + observed) / (seen + 1)
        history.append((sensitivity, uncertainty))
    return history


def cubic(step, final, begin, end):
    """Sparsity of PLATON's equation 8, written in density as there."""
    if step >= end:
        return final
    if step <= begin:
        return 0.0
    density = (1 - final) + (1 - (1 - final)) * (1 - (step - begin) / (end - begin)) ** 3
    return 1 - density


def exponential(step, final, begin, end):
    """Sparsity when each step between begin and end keeps the same fraction of what was there."""
    if step >= end:
        return final
    kept_per_step = (1 - final) ** (1 / (end - begin)) if end > begin else 1.0
    density = 1.0
    for _ in range(begin, step):
        density *= kept_per_step
    return 1 - density


def hamming(a, b):
    """Fraction of the entries in which two mappings of name to list of bools differ."""
    pairs = [pair for name in a for pair in zip(a[name], b[name], strict=True)]
    return sum(x != y for x, y in pairs) / len(pairs) if pairs else 0.0
