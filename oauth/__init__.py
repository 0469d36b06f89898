"""OAuth 2: machines and sites get an API key by a grant, without copying one."""
