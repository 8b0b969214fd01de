"""One script a question; `python -m benchmarks` runs them all and writes results/*.json."""
