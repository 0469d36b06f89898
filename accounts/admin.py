"""Accounts, for staff."""

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from accounts.models import User


class NewAccountForm(AdminUserCreationForm[User]):
    class Meta:
        model = User
        fields = ("email",)
        field_classes = {"email": forms.EmailField}


@admin.register(User)
class UserAdmin(DjangoUserAdmin[User]):
    add_form = NewAccountForm
    ordering = ["email"]
    list_display = ["email", "name", "is_active", "is_staff", "date_joined", "last_login"]
    list_filter = ["is_active", "is_staff", "date_joined"]
    # Staff often know an account by a key only: by its name, or by what a log shows of it.
    search_fields = ["email", "name", "api_keys__name", "api_keys__public_id"]
    search_help_text = _("E-mail address, name, or a key: its name or the digits after comfyui-.")
    readonly_fields = ["id", "date_joined", "last_login", "keys"]
    fieldsets = [
        (None, {"fields": ["email", "name", "password"]}),
        (_("State"), {"fields": ["is_active", "keys", "id", "date_joined", "last_login"]}),
        (
            _("Staff"),
            {"classes": ["collapse"], "fields": ["is_staff", "is_superuser", "groups"]},
        ),
    ]
    add_fieldsets = [
        (
            None,
            {"classes": ["wide"], "fields": ["email", "usable_password", "password1", "password2"]},
        )
    ]
    filter_horizontal = ["groups"]

    @admin.display(description=_("API keys"))
    def keys(self, user: User) -> str:
        listed = reverse("admin:apikeys_apikey_changelist", query={"owner__id__exact": user.pk})
        return format_html('<a href="{}">{}</a>', listed, _("Keys of this account"))

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        # Disabled, not deleted: the audit trail and the keys keep their owner.
        return False
