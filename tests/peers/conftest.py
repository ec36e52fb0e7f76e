"""Collects the tests only where the SAE libraries are installed: in the environment of `make test-peers`."""

from importlib.util import find_spec

collect_ignore_glob = (
    [] if all(map(find_spec, ("sae_lens", "dictionary_learning", "sparsify", "steering_vectors"))) else ["test_*.py"]
)
