# List the recipes.
default:
    @just --list

# Run the tests; arguments go to pytest: just test tests/docs -x
test *arguments:
    python -m pytest -q {{arguments}}

# Style, formatting, types and import contracts.
lint:
    ruff check .
    ruff format --check .
    mypy
    lint-imports

# Repair what ruff can repair.
format:
    ruff check --fix .
    ruff format .

# The example that the README begins with.
example:
    python examples/digits/run.py

# Ratios to hand-written loops.
bench *arguments:
    python -m benchmarks {{arguments}}

# Generated pages and pictures.
docs:
    python docs/make_components.py
    python docs/images/make.py

# Wheel and sdist, into dist/.
build:
    python -m build

# Everything that is checked before a merge, from this tree, in virtual environments of its own.
ci:
    .ci/run
