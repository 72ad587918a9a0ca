import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.metrics.direction import lower_is_better

LOWER = """
loss val_loss log_loss valLoss train/loss error top-5_error err mae MSE rmse test.RMSE perplexity latency latency_p99
p50-latency load_time time WER cer negative_log_likelihood seconds ErrorRate mean_squared_error
"""
HIGHER = """
accuracy f1 auroc bleu mean count throughput time_steps timeliness lossless terror error_free neg_mean_squared_error
neg_log_loss log_likelihood top-5 overall closeness 42 _ ?
"""


@pytest.mark.parametrize("name", LOWER.split())
def test_names_of_which_less_is_better(name: str) -> None:
    assert lower_is_better(name)


# "error_free" has the word in it: that is what the exceptions are for.
@pytest.mark.parametrize("name", sorted(set(HIGHER.split()) - {"error_free"}))
def test_names_of_which_more_is_better(name: str) -> None:
    assert not lower_is_better(name)


def test_exceptions_by_name() -> None:
    assert lower_is_better("error_free")
    assert not lower_is_better("error_free", higher=["error_free"])
    assert lower_is_better("bits", lower=("bits",))
    assert lower_is_better("loss", lower=("bits",), higher=("accuracy",))


@given(st.text())
def test_any_name_has_a_direction_that_exceptions_turn(name: str) -> None:
    assert lower_is_better(name) in (True, False)
    assert lower_is_better(name, lower=[name])
    assert not lower_is_better(name, higher=[name])
