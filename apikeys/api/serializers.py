"""Serializers of the REST API, with the names of Comfy API. They contain no rules."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from accounts.models import User
from accounts.services import display_name
from apikeys import expiry, scopes, tokens, usage_reports
from apikeys.api.naming import shown, suggestion
from apikeys.models import APIKey, validate_scopes
from apikeys.services import VerdictCode


class CustomerSerializer(serializers.ModelSerializer[User]):
    """An account, as Comfy API's `Customer`."""

    name = serializers.SerializerMethodField()
    createdAt = serializers.DateTimeField(source="date_joined")  # noqa: N815 (Comfy API's name)
    updatedAt = serializers.DateTimeField(source="updated_at")  # noqa: N815
    is_admin = serializers.BooleanField(source="is_staff")
    has_fund = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ["id", "email", "name", "createdAt", "updatedAt", "is_admin", "has_fund"]
        read_only_fields = fields

    def get_name(self, user: User) -> str:
        return display_name(user)

    def get_has_fund(self, user: User) -> bool:
        # There are no credits here, so no request is refused for lack of them.
        return True


class APIKeySerializer(serializers.ModelSerializer[APIKey]):
    """A key in its owner's list, as Comfy API's `APIKey`."""

    key_prefix = serializers.SerializerMethodField()
    scopes = serializers.ListField(child=serializers.CharField(), source="granted", read_only=True)
    replaced_by = serializers.UUIDField(source="successor_id", read_only=True, allow_null=True)

    class Meta:
        model = APIKey
        fields = [
            "id",
            "name",
            "description",
            "key_prefix",
            "created_at",
            "last_used_at",
            "expires_at",
            "scopes",
            "replaced_by",
            "suspended_at",
        ]
        read_only_fields = fields

    def get_key_prefix(self, key: APIKey) -> str:
        return f"{tokens.PREFIX}{key.public_id}"


class APIKeyWithPlaintextSerializer(APIKeySerializer):
    """A key with its plaintext, for the response to its creation."""

    plaintext_key = serializers.SerializerMethodField()

    class Meta(APIKeySerializer.Meta):
        fields = [*APIKeySerializer.Meta.fields, "plaintext_key"]
        read_only_fields = fields

    def get_plaintext_key(self, key: APIKey) -> str:
        token: tokens.Token = self.context["token"]
        return token.reveal()


class APIKeyListSerializer(serializers.Serializer[dict[str, list[APIKey]]]):
    api_keys = APIKeySerializer(many=True)


class IssuedAPIKeySerializer(serializers.Serializer[dict[str, APIKey]]):
    api_key = APIKeyWithPlaintextSerializer()


class UsageBucketSerializer(serializers.Serializer[usage_reports.Slot]):
    """The calls of one hour or day."""

    start = serializers.SerializerMethodField(help_text="When the hour or day begins.")
    calls = serializers.IntegerField()
    refusals = serializers.IntegerField(help_text="Refused calls. They are not among the calls.")

    def get_start(self, slot: usage_reports.Slot) -> datetime:
        # REST framework's field would convert it to UTC, where it is no midnight.
        return slot.start


class KeyUsageSerializer(serializers.Serializer[usage_reports.Row]):
    """The calls of one key."""

    id = serializers.UUIDField(source="key.pk")
    name = serializers.CharField(source="key.name")
    key_prefix = serializers.SerializerMethodField()
    calls = serializers.IntegerField()
    refusals = serializers.IntegerField()
    refusals_by_code = serializers.DictField(
        child=serializers.IntegerField(),
        source="codes",
        help_text="Refused calls by the error's code, such as EXPIRED.",
    )

    def get_key_prefix(self, row: usage_reports.Row) -> str:
        return f"{tokens.PREFIX}{row.key.public_id}"


class UsageSerializer(serializers.Serializer[usage_reports.Report]):
    """The calls of an account's keys in a period."""

    period = serializers.ChoiceField(choices=list(usage_reports.PERIODS))
    time_zone = serializers.CharField(source="zone")
    bucket = serializers.SerializerMethodField()
    calls = serializers.IntegerField()
    refusals = serializers.IntegerField()
    buckets = UsageBucketSerializer(
        many=True, source="slots", help_text="Without gaps, oldest first."
    )
    keys = KeyUsageSerializer(
        many=True,
        source="rows",
        help_text="The most used first. Deleted keys are listed if they were used.",
    )

    @extend_schema_field(serializers.ChoiceField(choices=["hour", "day"]))
    def get_bucket(self, report: usage_reports.Report) -> str:
        return "hour" if report.is_hourly else "day"


class StrictStringField(serializers.CharField):
    """A JSON string. DRF's field also accepts numbers."""

    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictIntegerField(serializers.IntegerField):
    """A JSON number without a fraction. DRF's field also accepts strings."""

    def to_internal_value(self, data: Any) -> int:
        is_whole = isinstance(data, int) or (isinstance(data, float) and data.is_integer())
        if isinstance(data, bool) or not is_whole:
            self.fail("invalid")
        return super().to_internal_value(int(data))


class StrictBooleanField(serializers.BooleanField):
    """A JSON boolean. DRF's field also accepts "no", 0 and others."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=type(data).__name__)
        return data


@extend_schema_field({"type": "string", "pattern": f"^({scopes.PATTERN})$"})
class ScopeField(StrictStringField):
    """The name of a scope; `validate_scopes` checks that it exists."""


# Maximum of unknown fields that an error names.
_MOST_NAMED: Final = 5


class StrictSerializer[T](serializers.Serializer[T]):
    """An object without unknown members: to ignore a misspelt one could remove a restriction."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = [name for name in data if name not in self.fields]
            if unknown:
                raise serializers.ValidationError(
                    {
                        shown(name): _("There is no such field. %(suggestion)s")
                        % {"suggestion": suggestion(name, self.fields)}
                        for name in unknown[:_MOST_NAMED]
                    }
                )
        return super().to_internal_value(data)


@extend_schema_field(
    {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}
)
class ExpiryField(serializers.DateTimeField):
    """The expiry of a key: a time, or a day (UTC), of which the last second counts."""

    def to_internal_value(self, value: Any) -> datetime:
        return expiry.validated(expiry.read_day(value) or super().to_internal_value(value))


class NewAPIKeySerializer(StrictSerializer[dict[str, object]]):
    """The fields of a new key. The service checks their lengths and the uniqueness of the name."""

    name = StrictStringField(trim_whitespace=False, help_text="At most 80 characters.")
    description = StrictStringField(
        required=False, allow_blank=True, allow_null=True, trim_whitespace=False
    )
    expires_at = ExpiryField(
        required=False,
        allow_null=True,
        help_text=(
            "When it ends (ISO 8601; UTC, unless an offset is given), at most 36,500 days from "
            "now. A date without a time means the end of that day in UTC. Default: never, or when "
            "the key ends that makes this one."
        ),
    )
    expires_in_days = StrictIntegerField(
        required=False, min_value=1, max_value=expiry.MAX_DAYS, help_text="Instead of expires_at."
    )
    scopes = serializers.ListField(
        child=ScopeField(),
        required=False,
        min_length=1,
        max_length=20,
        help_text=(
            "What it may be used for: customers:read, keys:manage, proxy:* or proxy:<provider>. "
            "Left out: everything."
        ),
    )

    def validate_scopes(self, wanted: list[str]) -> list[str]:
        for scope in wanted:
            # The stored list is separated by spaces.
            validate_scopes(scope)
        return [scope for words in wanted for scope in scopes.parse(words)]

    def validate(self, wanted: dict[str, Any]) -> dict[str, Any]:
        days = wanted.pop("expires_in_days", None)
        if days is None:
            return wanted
        if wanted.get("expires_at") is not None:
            raise serializers.ValidationError(_("Send expires_at or expires_in_days, not both."))
        return {**wanted, "expires_at": expiry.in_days(days)}


@extend_schema_serializer(component_name="Roll")
class RotateSerializer(StrictSerializer[dict[str, int]]):
    overlap_seconds = StrictIntegerField(
        min_value=0,
        max_value=604_800,
        help_text="For how long the old key works on: 0, so that it ends at once, to seven days.",
    )


class PresentedKeySerializer(StrictSerializer[dict[str, str]]):
    key = StrictStringField(help_text="The key to judge, `comfyui-…`.", trim_whitespace=False)


class PresentedKeysSerializer(StrictSerializer[dict[str, list[str]]]):
    keys = serializers.ListField(
        child=StrictStringField(trim_whitespace=False, allow_blank=True),
        min_length=1,
        max_length=100,
        help_text="The keys to judge, 100 at most.",
    )


@extend_schema_serializer(component_name="JudgedKey")
class ValidatedKeySerializer(APIKeySerializer):
    """A valid key, for a service."""

    class Meta(APIKeySerializer.Meta):
        fields = ["id", "name", "key_prefix", "created_at", "expires_at", "scopes"]
        read_only_fields = fields


@extend_schema_serializer(component_name="JudgedCustomer")
class ValidatedCustomerSerializer(CustomerSerializer):
    """The owner of a valid key, for a service."""

    class Meta(CustomerSerializer.Meta):
        fields = ["id", "email", "name"]
        read_only_fields = fields


class VerdictSerializer(serializers.Serializer[dict[str, object]]):
    """The result of a validation, with the key and its owner if it is valid."""

    valid = serializers.BooleanField()
    code = serializers.ChoiceField(choices=[(code.value, code.value) for code in VerdictCode])
    message = serializers.CharField(
        required=False, help_text="What to tell the person; absent when the key is good."
    )
    key = ValidatedKeySerializer(required=False, help_text="Absent unless the key is good.")
    customer = ValidatedCustomerSerializer(
        required=False, help_text="Whose key it is; absent unless it is good."
    )


class VerdictsSerializer(serializers.Serializer[dict[str, object]]):
    verdicts = VerdictSerializer(many=True, help_text="One for each key, in the order asked.")


class ErrorSerializer(serializers.Serializer[dict[str, str]]):
    error = serializers.CharField(help_text="A code, UPPER_SNAKE.")
    message = serializers.CharField(help_text="Words for a person: what to do about it.")


# Creating a serializer takes longer than a query, as its fields are copied. Every validation uses
# these, which have no state, so they are created once.
CUSTOMER: Final = CustomerSerializer()
VERDICT: Final = VerdictSerializer()
