"""The libraries that SAEs come from. They have an environment of their own, `make test-peers`; elsewhere nothing is collected."""

from importlib.util import find_spec

collect_ignore_glob = [] if all(map(find_spec, ("sae_lens", "dictionary_learning", "sparsify"))) else ["test_*.py"]
