"""The wire: shapes and names as ComfyUI's contract has them. They decide nothing."""

from typing import Final

from rest_framework import serializers

from accounts.models import User
from accounts.services import display_name
from apikeys import tokens
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


class NewAPIKeySerializer(serializers.Serializer[dict[str, str]]):
    """What one sends to make a key. Bounds and uniqueness are the service's to judge."""

    name = StrictStringField(trim_whitespace=False)
    description = StrictStringField(
        required=False, allow_blank=True, allow_null=True, trim_whitespace=False
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
        fields = ["id", "name", "key_prefix", "created_at", "expires_at"]
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
