"""The vLLM engine and the plug-in that steers inside vLLM's workers."""
