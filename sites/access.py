"""Which sites exist, and who may enter them."""

from django.db.models import Q, QuerySet

from accounts.models import User
from core import site_names
from sites.models import Access, ProtectedSite


def find_site(name: str) -> ProtectedSite | None:
    """Return the protected site with this host and port, or None."""
    if not site_names.possible_origins(name):
        return None
    return ProtectedSite.objects.filter(authority=name).first()


def may_enter(user: User, site: ProtectedSite) -> bool:
    """Return whether `user` may enter `site`, by page and by key."""
    return site.access == Access.EVERYONE or sites_of(user).filter(pk=site.pk).exists()


def sites_of(user: User) -> QuerySet[ProtectedSite]:
    """Return the sites that `user` may enter."""
    own = ProtectedSite.objects.filter(
        Q(access=Access.EVERYONE)
        | Q(pk__in=ProtectedSite.accounts.through.objects.filter(user=user).values("protectedsite"))
        | Q(
            pk__in=ProtectedSite.groups.through.objects.filter(group__user=user).values(
                "protectedsite"
            )
        )
    )
    return own.order_by("title", "origin")
