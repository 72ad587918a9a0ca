"""What holds for all tests."""

from hypothesis import settings

# How long an example takes says nothing on a machine that is shared.
settings.register_profile("no-deadline", deadline=None, max_examples=50)
settings.load_profile("no-deadline")
