"""Social login with Google or GitHub.

An email at the provider alone never logs in to an existing account. A user whose email is verified
on both sides is redirected to another login method, after which the social login is connected.
"""

from accounts.social.adapter import SocialAccountAdapter
from accounts.social.connect import connect_pending_login
from accounts.social.emails import verified_email
from accounts.social.forms import DisconnectForm
from accounts.social.provider_setup import ProviderSetup, setup_of_providers
from accounts.social.responses import restart_social_login

__all__ = [
    "DisconnectForm",
    "ProviderSetup",
    "SocialAccountAdapter",
    "connect_pending_login",
    "restart_social_login",
    "setup_of_providers",
    "verified_email",
]
