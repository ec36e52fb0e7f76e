"""Core library: steering specs, SAEs and edits to the residual stream. No web, no database, no vLLM, no Gradio."""
