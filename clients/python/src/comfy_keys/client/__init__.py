"""Clients that validate keys at the platform, for threads and for asyncio.

They are safe for threads, and for the tasks of one event loop.
"""

from comfy_keys.client.async_client import AsyncClient
from comfy_keys.client.sync_client import Client

__all__ = ["AsyncClient", "Client"]
