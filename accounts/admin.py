"""Accounts, for staff."""

from typing import Any

from allauth.account.admin import EmailAddressAdmin as AllauthEmailAddressAdmin
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from accounts import services
from accounts.models import User
from config.modeladmins import LongList, shown_digits
from config.text import fold

# allauth's own pages for these show providers' secrets and people's, let staff attach anybody's
# Google or GitHub identity to an account, or search by a field that our accounts have not.
for model in [Authenticator, SocialAccount, SocialApp, SocialToken, UserSession]:
    admin.site.unregister(model)
# And this one searches by reading every row; it gets a list of ours, below.
admin.site.unregister(EmailAddress)


class ProviderForm(forms.ModelForm[SocialApp]):
    """A provider's client. Its secret goes in, and never comes out again."""

    provider = forms.ChoiceField(
        label=_("provider"), choices=[("google", "Google"), ("github", "GitHub")]
    )
    secret = forms.CharField(
        label=_("client secret"),
        required=False,
        max_length=191,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("It is not shown again. Leave it empty to keep the one that is stored."),
    )

    class Meta:
        model = SocialApp
        fields = ("provider", "client_id", "secret")

    def clean_provider(self) -> str:
        provider: str = self.cleaned_data["provider"]
        if SocialApp.objects.filter(provider=provider).exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError(
                _("This provider is set up already. Change that one instead."), code="unique"
            )
        return provider

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"] or self.instance.secret
        if not secret:
            raise forms.ValidationError(_("A new client needs its secret."), code="required")
        return secret

    def save(self, commit: bool = True) -> SocialApp:
        self.instance.name = dict(self.fields["provider"].choices)[self.instance.provider]  # type: ignore[attr-defined]
        return super().save(commit)


@admin.register(SocialApp)
class ProviderAdmin(admin.ModelAdmin[SocialApp]):
    form = ProviderForm
    list_display = ["name", "client_id"]


class AccountForm(UserChangeForm[User]):
    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        rights = ("is_active", "is_staff", "is_superuser")
        # A field that is not in the form stays as it is.
        loses = any(not data.get(name, True) for name in rights)
        if loses and services.is_last_administrator(self.instance):
            raise forms.ValidationError(
                _("This is the last administrator: nobody could open these pages any more."),
                code="last_administrator",
            )
        return data


class NewAccountForm(AdminUserCreationForm[User]):
    class Meta:
        model = User
        fields = ("email",)
        field_classes = {"email": forms.EmailField}


@admin.register(User)
class UserAdmin(LongList, DjangoUserAdmin[User]):
    form = AccountForm
    add_form = NewAccountForm
    ordering = ["email"]
    list_display = ["email", "name", "is_active", "is_staff", "date_joined", "last_login"]
    list_filter = ["is_active", "is_staff", "date_joined"]
    sortable_by = ["email", "date_joined"]
    # Staff often know an account by a key only: by its name, or by what a log shows of it.
    finds = {
        "email": str.lower,
        "name__caseless": str,
        "api_keys__folded_name": fold,
        "api_keys__public_id": shown_digits,
    }
    search_help_text = _(
        "How the email address, the name, a key's name or its digits after comfyui- begin."
    )
    readonly_fields = ["id", "date_joined", "last_login", "keys", "factors"]
    actions = ["remove_factors"]
    fieldsets = [
        (None, {"fields": ["email", "name", "language", "password"]}),
        (
            _("State"),
            {"fields": ["is_active", "keys", "factors", "id", "date_joined", "last_login"]},
        ),
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

    @admin.display(description=_("Second factors"))
    def factors(self, user: User) -> str:
        kinds = Authenticator.objects.filter(user=user).values_list("type", flat=True)
        return ", ".join(str(Authenticator.Type(kind).label) for kind in kinds) or "–"

    def has_recover_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    @admin.action(
        description=_("Remove the second factors of the selected accounts"), permissions=["recover"]
    )
    def remove_factors(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        """For people who lost theirs. Asks first: they are one password away from then on."""
        if not request.POST.get("confirmed"):
            return TemplateResponse(
                request,
                "admin/accounts/user/remove_factors.html",
                {
                    **self.admin_site.each_context(request),
                    "title": _("Remove second factors"),
                    "users": queryset,
                    "opts": self.opts,
                },
            )
        for user in queryset:
            services.remove_factors(user)
            self.log_change(request, user, "Removed the second factors.")
        self.message_user(request, _("The second factors were removed."), messages.SUCCESS)
        return None

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        if request.user.is_superuser:
            return fields
        # Who may change accounts must not be able to make themselves more than they are.
        return [*fields, "is_staff", "is_superuser", "groups"]

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if obj is not None and obj.is_staff and not request.user.is_superuser:
            return False
        return super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if "email" in form.changed_data:
            services.replace_email(obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        # Disabled, not deleted: the audit trail and the keys keep their owner.
        return False


@admin.register(EmailAddress)
class EmailAddressAdmin(LongList, AllauthEmailAddressAdmin):  # type: ignore[misc]
    list_filter = []
    sortable_by = ["email"]
    related = ["user"]
    finds = {"email": str.lower}
    search_help_text = _("How the email address begins.")
