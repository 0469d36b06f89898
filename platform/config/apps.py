"""Makes the admin ours before anything registers with it."""

from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    default_site = "staff.site.StaffSite"
