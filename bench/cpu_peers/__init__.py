"""The default model beside llama.cpp on a CPU: `python -m bench.cpu_peers`."""
