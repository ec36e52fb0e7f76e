"""One chat request: prepare it, generate the reply, format it as OpenAI does."""
