"""Validate API keys at a ComfyUI keys platform.

    client = comfy_keys.Client("https://keys.example.org")
    if verdict := client.validate(key):
        print(verdict.customer.email)

`comfy_keys.drf` is for Django REST framework, `comfy_keys.asgi` for FastAPI and other ASGI
applications. The command `comfy-key` gets a key for a machine without a browser.
"""

from comfy_keys.client import AsyncClient, Client
from comfy_keys.errors import NotAllowed, NoVerdict, Unavailable
from comfy_keys.verdicts import BadVerdict, Customer, GoodVerdict, Key, Verdict

__all__ = [
    "AsyncClient",
    "BadVerdict",
    "Client",
    "Customer",
    "GoodVerdict",
    "Key",
    "NoVerdict",
    "NotAllowed",
    "Unavailable",
    "Verdict",
]
