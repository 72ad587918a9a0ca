import pytest

from batchmill import ConfigError
from batchmill.engine.policy import ON_ERROR, ON_NONFINITE, check_policy


def test_what_is_known_passes():
    for on_error in ON_ERROR:
        for on_nonfinite in ON_NONFINITE:
            for max_errors in (None, 0, 1, 10**9):
                check_policy(on_error, on_nonfinite, max_errors)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("quarantin", "keep", None), "on_error=quarantin is unknown: expected quarantine or fail.*mean.*quarantine"),
        (("fail", "drop", None), "on_nonfinite=drop is unknown: expected keep, quarantine or fail"),
        (("keep", "keep", None), "on_error=keep is unknown"),
        (("fail", "keep", -1), "max_errors=-1 is out of range: expected a whole number of at least 0, or null"),
        (("fail", "keep", True), "max_errors=True is out of range"),
        (("fail", "keep", 1.0), r"max_errors=1\.0 is out of range"),
    ],
)
def test_what_is_unknown_is_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        check_policy(*values)
