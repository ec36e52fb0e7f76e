"""vLLM engine, and the plugin that steers inside vLLM's workers."""
