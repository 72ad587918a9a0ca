"""What a run does about samples that fail."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill.errors import ConfigError, did_you_mean

ON_ERROR = ("quarantine", "fail")
ON_NONFINITE = ("keep", "quarantine", "fail")


@dataclass(frozen=True)
class FailurePolicy:
    """What a run does about samples that fail.

    Attributes:
        on_error: "quarantine" sets failing samples aside; "fail" ends the run.
        on_nonfinite: What NaN or infinity in a result means: "keep", "quarantine" or "fail".
    """

    on_error: str = "quarantine"
    on_nonfinite: str = "keep"


def check_policy(on_error: str, on_nonfinite: str, max_errors: int | None) -> None:
    """Refuse what is no policy.

    Raises:
        ConfigError: A value is unknown or out of its range; the message names the key and lists the values.
    """
    for key, value, known in (("on_error", on_error, ON_ERROR), ("on_nonfinite", on_nonfinite, ON_NONFINITE)):
        if value not in known:
            raise ConfigError(
                f"{key}={value} is unknown: expected {', '.join(known[:-1])} or {known[-1]}."
                f"{did_you_mean(str(value), known)}"
            )
    if max_errors is not None and (type(max_errors) is not int or max_errors < 0):
        raise ConfigError(f"max_errors={max_errors!r} is out of range: expected a whole number of at least 0, or null.")
