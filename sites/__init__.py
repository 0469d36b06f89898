"""Protected sites: ComfyUI servers whose pages need a log-in here (docs/sites.md)."""
