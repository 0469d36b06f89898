"""Asks a ComfyUI keys platform whether a key is good, and whose it is.

    client = comfy_keys.Client("https://keys.example.org")
    if verdict := client.validate(key):
        print(verdict.customer.email)

`comfy_keys.drf` is for Django REST framework, `comfy_keys.asgi` for FastAPI and other ASGI
applications, and the command `comfy-key` gives a machine without a browser a key of its own.
"""

from comfy_keys.client import AsyncClient, Client
from comfy_keys.errors import NotAllowed, NoVerdict, Unavailable
from comfy_keys.verdicts import Customer, Key, Verdict

__all__ = [
    "AsyncClient",
    "Client",
    "Customer",
    "Key",
    "NoVerdict",
    "NotAllowed",
    "Unavailable",
    "Verdict",
]
