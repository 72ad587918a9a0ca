from hypothesis import settings

# Machines that test are busy; how long an example takes says nothing about the code.
settings.register_profile("no-deadline", deadline=None, max_examples=100)
settings.load_profile("no-deadline")
