"""Staff pages for accounts, emails and the clients of social login providers."""

from typing import Any

from allauth.account.admin import EmailAddressAdmin as AllauthEmailAddressAdmin
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import ManyToManyField, Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from accounts import services
from accounts.models import User
from accounts.requests import current_user
from audit.models import Via
from audit.services import actor
from core.admin_mixins import LargeTableAdmin, public_id_prefix
from core.text import fold

# allauth's pages for these show secrets of providers and users, let staff connect any Google or
# GitHub identity to an account, or search by a field that this user model lacks.
for model in [Authenticator, SocialAccount, SocialApp, SocialToken, UserSession]:
    admin.site.unregister(model)
# Its search reads every row. EmailAddressAdmin below replaces it.
admin.site.unregister(EmailAddress)
admin.site.unregister(Group)


class ProviderForm(forms.ModelForm[SocialApp]):
    """An OAuth client at a provider. Its secret is write-only."""

    provider = forms.ChoiceField(
        label=_("provider"), choices=[("google", "Google"), ("github", "GitHub")]
    )
    secret = forms.CharField(
        label=_("client secret"),
        required=False,
        max_length=191,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("It is not shown again. Leave this empty to keep the stored secret."),
    )

    class Meta:
        model = SocialApp
        fields = ("provider", "client_id", "secret")

    def clean_provider(self) -> str:
        provider: str = self.cleaned_data["provider"]
        if SocialApp.objects.filter(provider=provider).exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError(
                _("This provider is already set up. Edit its entry instead."), code="unique"
            )
        return provider

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"] or self.instance.secret
        if not secret:
            raise forms.ValidationError(_("Enter the client secret."), code="required")
        return secret

    def save(self, commit: bool = True) -> SocialApp:
        self.instance.name = dict(self.fields["provider"].choices)[self.instance.provider]  # type: ignore[attr-defined]
        return super().save(commit)


@admin.register(SocialApp)
class ProviderAdmin(admin.ModelAdmin[SocialApp]):
    form = ProviderForm
    list_display = ["name", "client_id"]
    list_title = _("Login providers")
    empty_text = _(
        "Add the OAuth client of this site at Google or GitHub, and people can log in with it."
    )


class AccountForm(UserChangeForm[User]):
    # The staff member who submits the form.
    staff: User

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        rights = ("is_active", "is_staff", "is_superuser")
        # A read-only field is not in the data and keeps its value.
        loses = any(not data.get(name, True) for name in rights)
        if loses and services.is_last_administrator(self.instance):
            raise forms.ValidationError(
                _("This is the last administrator. No one could manage this site anymore."),
                code="last_administrator",
            )
        if self.instance == self.staff and not data.get("is_active", True):
            raise forms.ValidationError(
                _("You can't disable your own account. Ask another administrator."), code="oneself"
            )
        return data


class NewAccountForm(AdminUserCreationForm[User]):
    class Meta:
        model = User
        fields = ("email",)
        field_classes = {"email": forms.EmailField}


class AccountChangeList(ChangeList):
    """A list that links to each account's overview instead of its form."""

    def url_for_result(self, result: Model) -> str:
        return reverse("admin:accounts_user_overview", args=[result.pk])


@admin.register(User)
class UserAdmin(LargeTableAdmin, DjangoUserAdmin[User]):
    form = AccountForm
    add_form = NewAccountForm
    ordering = ["email"]
    list_display = ["email", "name", "is_active", "is_staff", "date_joined", "last_login"]
    list_filter = ["is_active", "is_staff", "date_joined"]
    sortable_by = ["email", "date_joined"]
    # Staff often know only a key of the account: its name, or its visible part in a log.
    prefix_searches = {
        "email": str.lower,
        "name__caseless": str,
        "api_keys__folded_name": fold,
        "api_keys__public_id": public_id_prefix,
    }
    search_help_text = _(
        "Start of the email address, the name, a key's name, or a key's digits after comfyui-."
    )
    empty_text = _("Everyone who signs up gets an account. You can also add one.")
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
    filter_horizontal = []

    @admin.display(description=_("API keys"))
    def keys(self, user: User) -> str:
        listed = reverse("admin:apikeys_apikey_changelist", query={"owner__id__exact": user.pk})
        return format_html('<a href="{}">{}</a>', listed, _("API keys of this account"))

    @admin.display(description=_("Two-factor authentication"))
    def factors(self, user: User) -> str:
        kinds = Authenticator.objects.filter(user=user).values_list("type", flat=True)
        return ", ".join(str(Authenticator.Type(kind).label) for kind in kinds) or "–"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return AccountChangeList

    def formfield_for_manytomany(
        self, db_field: ManyToManyField[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        if db_field.name == "groups":
            kwargs["widget"] = forms.CheckboxSelectMultiple
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def get_form(
        self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form: Any = super().get_form(request, obj, change=change, **kwargs)
        form.staff = request.user
        return form

    def has_recover_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.recover_user")

    @admin.action(
        description=_("Remove two-factor authentication of the selected accounts"),
        permissions=["recover"],
    )
    def remove_factors(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        """Remove two-factor authentication of the selected accounts, after a confirmation page."""
        if not request.POST.get("confirmed"):
            return TemplateResponse(
                request,
                "admin/accounts/user/remove_factors.html",
                {
                    **self.admin_site.each_context(request),
                    "title": _("Remove two-factor authentication"),
                    "users": queryset,
                    "opts": self.opts,
                },
            )
        if not all(services.may_act_on(user, by=current_user(request)) for user in queryset):
            raise PermissionDenied
        for user in queryset:
            services.remove_factors(user)
            self.log_change(request, user, "Removed the second factors.")
        self.message_user(request, _("Two-factor authentication was removed."), messages.SUCCESS)
        return None

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Return the fields beyond the role of the staff member, who must not raise it."""
        fields = [*super().get_readonly_fields(request, obj)]
        if not request.user.has_perm("accounts.disable_user"):
            fields.append("is_active")
        if not request.user.has_perm("accounts.manage_staff"):
            fields += ["is_staff", "groups"]
        if not request.user.is_superuser:
            fields.append("is_superuser")
        return fields

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if obj is not None and not services.may_act_on(obj, by=current_user(request)):
            return False
        return super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        is_toggled = change and "is_active" in form.changed_data
        is_active = obj.is_active
        if is_toggled:
            # Saved below by a service, which also ends sessions, records an event and sends a mail.
            obj.is_active = not is_active
        super().save_model(request, obj, form, change)
        if "email" in form.changed_data:
            services.replace_email(obj)
        if is_toggled:
            toggle = services.enable if is_active else services.disable
            try:
                toggle(obj, by=actor(request, via=Via.ADMIN))
            except services.LastAdministrator:
                # Another administrator was disabled after the form was validated.
                raise PermissionDenied from None

    def user_change_password(
        self,
        request: HttpRequest,
        id: str,  # noqa: A002 (Django's)
        form_url: str = "",
    ) -> HttpResponse:
        # The password and its audit event are saved together.
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        # Staff disable accounts. Audit events and keys keep their owner.
        return False


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin):
    empty_text = _("A group gives its members permissions for the staff pages.")


@admin.register(EmailAddress)
class EmailAddressAdmin(LargeTableAdmin, AllauthEmailAddressAdmin):  # type: ignore[misc]
    list_filter = []
    sortable_by = ["email"]
    related = ["user"]
    prefix_searches = {"email": str.lower}
    search_help_text = _("Start of the email address.")
    empty_text = _("All email addresses of accounts are listed here, also unverified ones.")

    # allauth's action requires no permission.
    @admin.action(
        description=_("Mark the selected email addresses as verified"), permissions=["change"]
    )
    def make_verified(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        marked = list(queryset.filter(verified=False))
        with transaction.atomic():
            # allauth uses iterator(), which Django refuses after prefetch_related().
            super().make_verified(request, queryset.prefetch_related(None))
            for email in marked:
                self.log_change(request, email, "Marked as verified.")

    # Changing an account's email allows taking over the account, also an administrator's.
    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser
