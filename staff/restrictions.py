"""Restrictions on every ModelAdmin: list filters, bulk actions and API keys in text fields.

Lists accept only the filters that they show: a filter on another field, such as a hash or the text
of a mail, would reveal values that no page shows. Bulk actions are bounded and require a fresh
second factor. No text field accepts an API key.
"""

import functools
from collections.abc import Iterator
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.filters import FieldListFilter, SimpleListFilter
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import NotRelationField, get_fields_from_path
from django.contrib.admin.views.main import ERROR_FLAG, ChangeList
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DataError, connection
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext_lazy as _
from django_stubs_ext import StrPromise

from accounts import reauthentication
from core.validators import reject_api_key

# Maximum number of rows of one bulk action.
MAX_ACTION_ROWS: Final = 100

_FALSE_VALUES: Final = {"", "0", "false"}
_TRUE_VALUES: Final = {"1", "true"}


class CheckedChangeList(ChangeList):
    """Redirects to `?e=1` for invalid filters, as Django does for those that it detects."""

    def get_filters(self, request: HttpRequest) -> Any:
        given = self.get_filters_params()
        if any("\0" in text for name, texts in request.GET.lists() for text in (name, *texts)):
            raise IncorrectLookupParameters("NUL")
        unknown = {name for name in given if self._is_unknown(name, request)}
        if unknown:
            raise IncorrectLookupParameters(f"There is no {', '.join(sorted(unknown))}.")
        # Raises DisallowedModelAdminLookup for a lookup that is not allowed.
        filters = super().get_filters(request)
        for name, texts in given.items():
            for text in texts:
                self._check(name, text)
        for spec in filters[0]:
            if isinstance(spec, SimpleListFilter):
                self._check_choice(spec, given.get(str(spec.parameter_name), []))
        return filters

    def _is_unknown(self, name: str, request: HttpRequest) -> bool:
        if self.model_admin.lookup_allowed(name, "", request):
            return False
        first = name.partition("__")[0]
        try:
            self.opts.get_field(first)
        except FieldDoesNotExist:
            return first != "pk"
        return False

    def _check(self, name: str, text: str) -> None:
        """Raise IncorrectLookupParameters for a value that no row can have."""
        field, lookup = _resolve(self.model, name)
        if field is None:
            return
        if lookup == "isnull":
            if text.lower() not in _TRUE_VALUES | _FALSE_VALUES:
                raise IncorrectLookupParameters(name)
            return
        try:
            value = field.to_python(text)
            field.validate(value, None)
            field.run_validators(value)
            # Raises OverflowError for a time that leaves the calendar when converted to UTC.
            field.get_db_prep_value(value, connection)
        except (ValidationError, ValueError, TypeError, OverflowError) as error:
            raise IncorrectLookupParameters(name) from error

    def _check_choice(self, spec: SimpleListFilter, texts: list[str]) -> None:
        offered = {str(value) for value, _title in spec.lookup_choices}
        if len(texts) > 1 or not offered.issuperset(texts):
            raise IncorrectLookupParameters(spec.parameter_name)


def _resolve(model: type[Model], name: str) -> tuple[Field[Any, Any] | None, str]:
    """Return the field and the lookup type of a lookup such as `owner__id__exact`."""
    path, lookup = name.split("__"), "exact"
    while path:
        try:
            field = get_fields_from_path(model, "__".join(path))[-1]
        except (FieldDoesNotExist, NotRelationField):
            lookup = path.pop()
            continue
        found: Any = field
        if field.is_relation and lookup != "isnull":
            found = getattr(field, "target_field", None)
        return (found if isinstance(found, Field) else None), lookup
    return None, lookup


class RestrictedModelAdmin(admin.ModelAdmin[Any]):
    """Mixin for every registered ModelAdmin, also those of libraries.

    A ModelAdmin lists further lookups that pages link to, besides those of its filters and of the
    primary key, in `allowed_lookups`.
    """

    # --- Lists ---

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in self._allowed_lookups(request) and super().lookup_allowed(
            lookup, value, request
        )

    def _allowed_lookups(self, request: HttpRequest) -> set[str]:
        pk = self.opts.pk.name if self.opts.pk else "pk"
        rows = {f"{pk}__exact", "pk__exact"}
        return {*rows, *getattr(self, "allowed_lookups", ()), *self._filter_lookups(request)}

    def _filter_lookups(self, request: HttpRequest) -> Iterator[str]:
        for item in self.get_list_filter(request):
            if isinstance(item, type) and issubclass(item, SimpleListFilter):
                yield str(item.parameter_name)
                continue
            named: Any
            kind: Any
            named, kind = item if isinstance(item, tuple | list) else (item, FieldListFilter.create)
            field = get_fields_from_path(self.model, named)[-1]
            spec = kind(field, request, {}, self.model, self, field_path=named)
            yield from (name for name in spec.expected_parameters() if name)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        base: Any = super().get_changelist(request, **kwargs)
        return _checked_change_list(base)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            return super().changelist_view(request, extra_context)
        except DataError:
            # A value that only the database detects as invalid.
            if ERROR_FLAG in request.GET:
                raise
            return HttpResponseRedirect(f"{request.path}?{ERROR_FLAG}=1")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if "\0" in search_term:
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)

    # --- Bulk actions ---

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        if error := self._selection_error(request, queryset):
            self.message_user(request, error, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        if not reauthentication.has_fresh_factor(request):
            self.message_user(
                request,
                _(
                    "Actions on many rows need your two-factor authentication again. Nothing was "
                    "changed: select the rows again afterwards."
                ),
                messages.WARNING,
            )
            return reauthentication.ask_for_factor(request)
        response: HttpResponse | None = super().response_action(request, queryset, *args, **kwargs)
        return response

    def _selection_error(
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> StrPromise | str | None:
        """Return a message for rows that are not of this list, or for too many rows."""
        try:
            selected = self._selected_rows(request, queryset).order_by()
            is_over_limit = selected[: MAX_ACTION_ROWS + 1].count() > MAX_ACTION_ROWS
        except (ValidationError, ValueError):
            return _("The selection contains rows that are not in this list. Nothing was changed.")
        if is_over_limit:
            text = _(
                "At most %(most)d rows can be selected at once. Nothing was changed: select fewer "
                "rows, and repeat the action."
            )
            return text % {"most": MAX_ACTION_ROWS}
        return None

    def _selected_rows(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        # Parsed as by Django's action form.
        if request.POST.get("select_across", "0").lower() not in _FALSE_VALUES:
            return queryset
        return queryset.filter(pk__in=set(request.POST.getlist(ACTION_CHECKBOX_NAME)))

    # --- Form fields ---

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form: Any = super().get_form(request, obj, change=change, **kwargs)
        for field in form.base_fields.values():
            is_text = isinstance(field, forms.CharField)
            # Except passwords, which are hashed, and secrets of providers, which are never shown.
            if is_text and not isinstance(field.widget, forms.PasswordInput):
                field.validators = [
                    *(other for other in field.validators if other is not reject_api_key),
                    reject_api_key,
                ]
        return form


@functools.cache
def _checked_change_list(base: Any) -> type[ChangeList]:
    return type(base.__name__, (CheckedChangeList, base), {"__module__": base.__module__})
