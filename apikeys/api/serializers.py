"""Serializers of the REST API, with the names of Comfy API. They contain no rules."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from accounts.models import User
from accounts.services import display_name
from apikeys import expiry, scopes, tokens, usage_reports
from apikeys.allowed_networks import MAX_NETWORKS
from apikeys.api.naming import shown, suggestion
from apikeys.models import APIKey, read_allowed_networks, validate_scopes
from apikeys.services import VerdictCode
from core.client_ip import client_ip


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
    allowed_networks = serializers.ListField(
        child=serializers.CharField(),
        source="allowed_network_list",
        read_only=True,
        help_text="From where the key may be used (CIDR). Empty: from everywhere.",
    )
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
            "allowed_networks",
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


class APIKeyListSerializer(serializers.Serializer[dict[str, object]]):
    api_keys = APIKeySerializer(many=True)


class APIKeyPageSerializer(APIKeyListSerializer):
    next_cursor = serializers.CharField(
        required=False,
        allow_null=True,
        help_text="With `limit`: the cursor of the next page; null on the last page.",
    )


class OneAPIKeySerializer(serializers.Serializer[dict[str, APIKey]]):
    api_key = APIKeySerializer()


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


class ScopesField(serializers.ListField):
    """One to twenty scopes. An item may hold several, separated by spaces."""

    child = ScopeField()

    def __init__(self, **options: Any) -> None:
        super().__init__(min_length=1, max_length=20, **options)

    def to_internal_value(self, data: Any) -> list[str]:
        wanted = super().to_internal_value(data)
        for words in wanted:
            validate_scopes(words)
        return [scope for words in wanted for scope in scopes.parse(words)]


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
                        shown(name): _("Unknown field. %(suggestion)s")
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


class AllowedNetworksField(serializers.ListField):
    """IP addresses and networks; the service would accept the same ones."""

    child = StrictStringField()

    def to_internal_value(self, data: Any) -> list[str]:
        return read_allowed_networks(super().to_internal_value(data)).split()


class UUIDField(serializers.UUIDField):
    """A UUID as a JSON string. DRF's field also accepts numbers."""

    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=type(data).__name__)
        return super().to_internal_value(data)


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
            "When the key expires (ISO 8601; UTC unless an offset is given), at most 36,500 days "
            "from now and at most the operator's KEY_LIFETIME_MAX: a later time is a 400 "
            "EXPIRES_TOO_LATE, with the latest allowed time in latest_expires_at. A date without "
            "a time means the end of that day in UTC; null means never. Default: the operator's "
            "KEY_LIFETIME_DEFAULT, or when the key that creates this one expires, if that is "
            "earlier."
        ),
    )
    expires_in_days = StrictIntegerField(
        required=False, min_value=1, max_value=expiry.MAX_DAYS, help_text="Instead of expires_at."
    )
    scopes = ScopesField(
        required=False,
        help_text=(
            "The permissions of the key: customers:read, keys:manage, proxy:* or "
            "proxy:<provider>. Default: all."
        ),
    )
    allowed_networks = AllowedNetworksField(
        required=False,
        max_length=MAX_NETWORKS,
        help_text=(
            "Where the key can be used from: IP addresses and networks (CIDR, IPv4 and IPv6), "
            "such as 203.0.113.0/24. Default, or empty: from everywhere."
        ),
    )

    def validate(self, wanted: dict[str, Any]) -> dict[str, Any]:
        days = wanted.pop("expires_in_days", None)
        if days is None:
            return wanted
        if wanted.get("expires_at") is not None:
            raise serializers.ValidationError(_("Send expires_at or expires_in_days, not both."))
        return {**wanted, "expires_at": expiry.in_days(days)}


class APIKeyChangesSerializer(StrictSerializer[dict[str, object]]):
    """The fields of a key to change; others stay as they are."""

    name = StrictStringField(
        required=False, trim_whitespace=False, help_text="At most 80 characters."
    )
    description = StrictStringField(required=False, allow_blank=True, trim_whitespace=False)
    expires_at = ExpiryField(required=False, allow_null=True, help_text="null: never.")
    scopes = ScopesField(
        required=False,
        help_text="Some of the key's scopes, or narrower ones.",
    )
    allowed_networks = AllowedNetworksField(
        required=False, max_length=MAX_NETWORKS, help_text="Empty: everywhere."
    )

    def validate(self, changes: dict[str, Any]) -> dict[str, Any]:
        if not changes:
            raise serializers.ValidationError(_("Send at least one field to change."))
        return changes


class BulkDeleteSerializer(StrictSerializer[dict[str, list[UUID]]]):
    ids = serializers.ListField(child=UUIDField(), min_length=1, max_length=100)


class DeletedSerializer(serializers.Serializer[dict[str, list[UUID]]]):
    deleted = serializers.ListField(
        child=serializers.UUIDField(),
        help_text="The keys that this request deleted; those that were deleted before are missing.",
    )


@extend_schema_serializer(component_name="Roll")
class RotateSerializer(StrictSerializer[dict[str, int]]):
    overlap_seconds = StrictIntegerField(
        min_value=0,
        max_value=604_800,
        help_text="How long the old key keeps working: from 0 (it stops immediately) to "
        "seven days.",
    )


@extend_schema_field(
    {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}
)
class ClientIPField(StrictStringField):
    """The IP of the client that a service asks for."""

    default_error_messages = {"ip": _("“%(ip)s” is not an IP address.")}

    def __init__(self, **options: Any) -> None:
        super().__init__(
            required=False,
            help_text=(
                "The IP address of the client that uses the key. Without it, keys that may be used "
                "from some networks only are refused as NETWORK_NOT_ALLOWED."
            ),
            **options,
        )

    def to_internal_value(self, data: object) -> str:
        text = super().to_internal_value(data)
        ip = client_ip(text)
        if ip is None:
            raise serializers.ValidationError(
                self.error_messages["ip"] % {"ip": shown(text)}, code="ip"
            )
        return ip


class PresentedKeySerializer(StrictSerializer[dict[str, str]]):
    key = StrictStringField(help_text="The key to validate, `comfyui-…`.", trim_whitespace=False)
    client_ip = ClientIPField()


class PresentedKeysSerializer(StrictSerializer[dict[str, Any]]):
    keys = serializers.ListField(
        child=StrictStringField(trim_whitespace=False, allow_blank=True),
        min_length=1,
        max_length=100,
        help_text="The keys to validate, at most 100.",
    )
    client_ips = serializers.ListField(
        child=ClientIPField(allow_null=True),
        required=False,
        max_length=100,
        help_text=(
            "For each key the IP address of the client that uses it, or null, in the order of the "
            "keys. Without one, keys that may be used from some networks only are refused as "
            "NETWORK_NOT_ALLOWED."
        ),
    )

    def validate(self, asked: dict[str, Any]) -> dict[str, Any]:
        client_ips = asked.setdefault("client_ips", [None] * len(asked["keys"]))
        if len(client_ips) != len(asked["keys"]):
            raise serializers.ValidationError(_("Send as many client_ips as keys."))
        return asked


@extend_schema_serializer(component_name="JudgedKey")
class ValidatedKeySerializer(APIKeySerializer):
    """A valid key, for a service."""

    class Meta(APIKeySerializer.Meta):
        fields = [
            "id",
            "name",
            "key_prefix",
            "created_at",
            "expires_at",
            "scopes",
            "allowed_networks",
        ]
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
        required=False, help_text="A message for the user. Absent if the key is valid."
    )
    key = ValidatedKeySerializer(required=False, help_text="Absent unless the key is valid.")
    customer = ValidatedCustomerSerializer(
        required=False, help_text="The owner of the key. Absent unless the key is valid."
    )


class VerdictsSerializer(serializers.Serializer[dict[str, object]]):
    verdicts = VerdictSerializer(many=True, help_text="One per key, in the order sent.")


class ErrorSerializer(serializers.Serializer[dict[str, str]]):
    error = serializers.CharField(help_text="A machine-readable code, UPPER_SNAKE.")
    message = serializers.CharField(help_text="A message for the user that says what to do.")
    latest_expires_at = serializers.DateTimeField(
        required=False, help_text="With EXPIRES_TOO_LATE: the latest allowed time."
    )


class UnavailableSerializer(ErrorSerializer):
    cause = serializers.CharField(help_text="Why, for the operator: docs/monitoring.md.")


class NameTakenSerializer(ErrorSerializer):
    key_id = serializers.UUIDField(help_text="The key that has this name.")


class UnknownKeysSerializer(ErrorSerializer):
    ids = serializers.ListField(child=serializers.UUIDField(), help_text="Not your keys.")


# Creating a serializer takes longer than a query, as its fields are copied. Every validation uses
# these, which have no state, so they are created once.
CUSTOMER: Final = CustomerSerializer()
VERDICT: Final = VerdictSerializer()
