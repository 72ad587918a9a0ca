"""Whether a higher or a lower value of a metric is the better one: a rule by name, and exceptions by name."""

from __future__ import annotations

import re
from collections.abc import Collection

# A name with one of these words, as ``val_loss``, ``top-5 error`` or ``latencyP99``, is better when it is lower.
LOWER_WORDS = frozenset(
    """
    loss losses error errors err mae mse rmse rmsle mape smape mdape medae perplexity ppl latency wer cer ter eer
    fpr fnr nll bce brier regret distance divergence kl fid ece duration misclassified
    """.split()
)
# These count as the last word only: ``load_time`` is a time, ``time_steps`` is not.
LOWER_ENDINGS = frozenset("time times seconds".split())
# scikit-learn's ``neg_mean_squared_error`` is negated so that higher is better.
_NEGATED = "neg"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def lower_is_better(name: str, lower: Collection[str] = (), higher: Collection[str] = ()) -> bool:
    """Return whether a lower value of a metric is better.

    Args:
        name: The metric.
        lower: Names of which lower values are better, whatever the rule says.
        higher: Names of which higher values are better; ``lower`` and ``higher`` share none.

    >>> [lower_is_better(name) for name in ("val_loss", "accuracy", "load_time", "neg_mean_squared_error")]
    [True, False, True, False]
    """
    if name in lower or name in higher:
        return name in lower
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    low = not LOWER_WORDS.isdisjoint(words) or words[-1] in LOWER_ENDINGS
    low = low or {"negative", "likelihood"} <= set(words)
    return low and words[0] != _NEGATED
