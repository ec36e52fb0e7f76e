"""The core: specs, SAEs, edits to the residual stream. No web, no database, no vLLM, no Gradio."""
