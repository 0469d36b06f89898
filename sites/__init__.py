"""Protected sites: ComfyUI servers whose pages need a login here (docs/sites.md)."""
