"""Pages where a logged-in user approves or denies a key for a machine or a site."""

from oauth.views.authorization import authorize
from oauth.views.device_pages import device, device_done

__all__ = ["authorize", "device", "device_done"]
