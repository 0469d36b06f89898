"""The wire: shapes and names as ComfyUI's contract has them. They decide nothing."""

from datetime import datetime
from typing import Any, Final

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from accounts.models import User
from accounts.services import display_name
from apikeys import expiry, tokens
from apikeys.models import APIKey
from apikeys.services import Code


class CustomerSerializer(serializers.ModelSerializer[User]):
    """An account, as Comfy API's `Customer`."""

    name = serializers.SerializerMethodField()
    createdAt = serializers.DateTimeField(source="date_joined")  # noqa: N815 (the contract's name)
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
        # This platform keeps no money: nothing is ever refused for want of it.
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
    """A key in the one answer that shows it."""

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


class StrictStringField(serializers.CharField):
    """A JSON string. DRF's own field takes numbers for strings; a number is no name and no key."""

    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class NewAPIKeySerializer(serializers.Serializer[dict[str, object]]):
    """What one sends to make a key. Bounds and uniqueness are the service's to judge."""

    name = StrictStringField(trim_whitespace=False)
    description = StrictStringField(
        required=False, allow_blank=True, allow_null=True, trim_whitespace=False
    )
    expires_at = serializers.DateTimeField(
        required=False,
        allow_null=True,
        help_text="When it ends (ISO 8601; UTC, unless an offset is given). Default: never.",
    )
    expires_in_days = serializers.IntegerField(
        required=False, min_value=1, max_value=expiry.MAX_DAYS, help_text="Instead of expires_at."
    )
    scopes = serializers.ListField(
        child=StrictStringField(),
        required=False,
        min_length=1,
        max_length=20,
        help_text=(
            "What it may be used for: customers:read, keys:manage, proxy:* or proxy:<provider>. "
            "Left out: everything."
        ),
    )

    def validate_expires_at(self, moment: datetime | None) -> datetime | None:
        return None if moment is None else expiry.must_be_ahead(moment)

    def validate(self, wanted: dict[str, Any]) -> dict[str, Any]:
        days = wanted.pop("expires_in_days", None)
        if days is None:
            return wanted
        if wanted.get("expires_at") is not None:
            raise serializers.ValidationError(_("Send expires_at or expires_in_days, not both."))
        return {**wanted, "expires_at": expiry.in_days(days)}


class RollSerializer(serializers.Serializer[dict[str, int]]):
    overlap_seconds = serializers.IntegerField(
        min_value=0,
        max_value=604_800,
        help_text="For how long the old key works on: 0, so that it ends at once, to seven days.",
    )


class PresentedKeySerializer(serializers.Serializer[dict[str, str]]):
    key = StrictStringField(help_text="The key to judge, `comfyui-…`.", trim_whitespace=False)


class PresentedKeysSerializer(serializers.Serializer[dict[str, list[str]]]):
    keys = serializers.ListField(
        child=StrictStringField(trim_whitespace=False, allow_blank=True),
        min_length=1,
        max_length=100,
        help_text="The keys to judge, 100 at most.",
    )


class JudgedKeySerializer(APIKeySerializer):
    """What a service that asks may know of a key."""

    class Meta(APIKeySerializer.Meta):
        fields = ["id", "name", "key_prefix", "created_at", "expires_at", "scopes"]
        read_only_fields = fields


class JudgedCustomerSerializer(CustomerSerializer):
    """What a service that asks may know of a key's owner."""

    class Meta(CustomerSerializer.Meta):
        fields = ["id", "email", "name"]
        read_only_fields = fields


class VerdictSerializer(serializers.Serializer[dict[str, object]]):
    """The answer to "is this key good, and whose is it?"."""

    valid = serializers.BooleanField()
    code = serializers.ChoiceField(choices=[(code.value, code.value) for code in Code])
    message = serializers.CharField(
        required=False, help_text="What to tell the person; absent when the key is good."
    )
    key = JudgedKeySerializer(required=False, help_text="Absent unless the key is good.")
    customer = JudgedCustomerSerializer(
        required=False, help_text="Whose key it is; absent unless it is good."
    )


class VerdictsSerializer(serializers.Serializer[dict[str, object]]):
    verdicts = VerdictSerializer(many=True, help_text="One for each key, in the order asked.")


class ErrorSerializer(serializers.Serializer[dict[str, str]]):
    error = serializers.CharField(help_text="A code, UPPER_SNAKE.")
    message = serializers.CharField(help_text="Words for a person: what to do about it.")


# REST framework builds a serializer's fields anew for each instance, which takes longer than a
# query. These two are asked for at every validation, keep nothing, and are made once.
CUSTOMER: Final = CustomerSerializer()
VERDICT: Final = VerdictSerializer()
