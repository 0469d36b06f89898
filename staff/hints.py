"""Hints about the configuration, on the admin's front page: settings and Django's system checks."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from django.core import checks
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django_stubs_ext import StrPromise

from staff.front_page import ADMINISTRATOR


@dataclass(frozen=True, slots=True)
class Hint:
    """What is wrong, what follows from it, and what to do."""

    title: StrPromise | str
    text: StrPromise | str = ""
    remedy: StrPromise | str = ""


_PLAIN_HTTP = Hint(
    _("This site is reached over plain HTTP"),
    _(
        "Others on the network can read API keys, passwords and sessions, and change pages. "
        "Passkeys don't work, and the newest ComfyUI accepts https:// only. Keys that were used "
        "over HTTP may be known to others: people should replace them once HTTPS works."
    ),
    _(
        "Start with TLS=1, with TLS_CERT and TLS_KEY, or run behind a proxy that terminates TLS, "
        "and let PUBLIC_URL start with https://."
    ),
)
_NO_MAIL = Hint(
    _("Email is off"),
    _(
        "Email addresses are not verified, no one can reset a password, and no one is notified of "
        "new devices or exposed keys."
    ),
    _("Set EMAIL_URL to a mail server."),
)
_MAIL_IN_TERMINAL = Hint(
    _("There is no mail server"),
    _(
        "Email is printed in the terminal, with its codes and links. Email addresses are not "
        "verified."
    ),
    _("Set EMAIL_URL to a mail server."),
)
_DEBUG = Hint(
    _("Debug mode is on"),
    _("Error pages show code and settings to everyone."),
    _("Remove DEBUG=1."),
)
_PASSWORD_ALONE = Hint(
    _("Staff pages open with a password alone"),
    _("A stolen password is enough to read and change all accounts."),
    _("Remove STAFF_SECOND_FACTOR=off."),
)
_NO_CONTACT = Hint(
    _("There is no security contact"),
    _("People who find a vulnerability don't know where to report it: security.txt is missing."),
    _("Set SECURITY_CONTACT to an email address or a URL."),
)


def hints(request: HttpRequest) -> list[Hint]:
    """Return the hints: to administrators all, to other staff only what concerns people's keys."""
    if request.user.has_perm(ADMINISTRATOR):
        return [*_of_settings(), *_of_checks()]
    return [_PLAIN_HTTP] if settings.PLAINTEXT_PUBLIC else []


def _of_settings() -> Iterator[Hint]:
    if settings.PLAINTEXT_PUBLIC:
        yield _PLAIN_HTTP
    if not settings.HAS_MAIL_SERVER:
        yield _NO_MAIL if settings.NO_MAIL else _MAIL_IN_TERMINAL
    if settings.DEBUG:
        yield _DEBUG
    if not settings.STAFF_SECOND_FACTOR:
        yield _PASSWORD_ALONE
    if not settings.SECURITY_CONTACT:
        yield _NO_CONTACT


def _of_checks() -> Iterator[Hint]:
    # Only the checks of security: the others read code, which does not change while it runs.
    # Outside of production, those for deployments report what the hints above say in plain words.
    found = checks.run_checks(
        tags=[checks.Tags.security], include_deployment_checks=settings.PRODUCTION
    )
    for message in found:
        if message.is_serious(checks.WARNING) and not message.is_silenced():
            yield Hint(message.msg, remedy=message.hint or "")
