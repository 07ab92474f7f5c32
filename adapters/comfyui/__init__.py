"""ComfyUI servers: workflows go there, files come home."""
