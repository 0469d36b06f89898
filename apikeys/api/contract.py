"""What ComfyUI and comfy-cli ask beside whose key it is: workspaces, money, what is new.

This platform keeps no money and sells nothing, and says so: nothing is gated (the operator pays),
and a balance is not zero, but not there. At "zero credits" clients refuse to run (ComfyUI issue
15028). What may be managed and bought is answered with nothing rather than with an error: the
frontend reports such errors to its makers, over the network.
"""

from datetime import timedelta

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from accounts.services import display_name
from apikeys import scopes
from apikeys.api import schema
from apikeys.api.authentication import KeyAuthentication
from apikeys.api.base import Endpoint
from apikeys.api.errors import BadRequest, Refused
from apikeys.requests import account

_MAX_LIMIT = 100
_MAX_PAGE = 1_000_000


class WithKey(Endpoint):
    """Who has no good key is told that first, whatever else is wrong."""

    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN


class NotSoldEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Buying credits: refused",
        description="This platform sells nothing.",
        request=None,
        responses={**schema.REFUSALS, 403: schema.NOT_SOLD},
    )
    def post(self, request: Request) -> Response:
        raise Refused(
            "NOT_SOLD",
            _("There is nothing to buy here: whoever runs this site pays. Ask them for more."),
            status.HTTP_403_FORBIDDEN,
        )


class NotKeptEndpoint(WithKey):
    """What others keep here and this platform does not."""

    @extend_schema(
        tags=["ComfyUI"],
        summary="A balance: none is kept",
        responses={404: schema.NOT_KEPT, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        raise Refused(
            "NOT_FOUND",
            _("This platform keeps no credits: nothing is counted, and nothing runs out."),
            status.HTTP_404_NOT_FOUND,
        )


class EventSerializer(serializers.Serializer[dict[str, object]]):
    event_type = serializers.CharField()
    event_id = serializers.CharField()
    params = serializers.DictField()
    createdAt = serializers.DateTimeField()  # noqa: N815 (the contract's name)


class EventsSerializer(serializers.Serializer[dict[str, object]]):
    """One page of events of money."""

    total = serializers.IntegerField()
    page = serializers.IntegerField()
    limit = serializers.IntegerField()
    totalPages = serializers.IntegerField()  # noqa: N815
    events = EventSerializer(many=True)


class EventsEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="What the Credits panel lists: nothing, as no credits are kept",
        parameters=[
            OpenApiParameter("page", {"type": "integer", "minimum": 1, "maximum": _MAX_PAGE}),
            OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT}),
        ],
        responses={200: EventsSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response(
            {
                "total": 0,
                "page": _number(request, "page", default=1, most=_MAX_PAGE),
                "limit": _number(request, "limit", default=10, most=_MAX_LIMIT),
                "totalPages": 0,
                "events": [],
            }
        )


class ElsewhereEndpoint(WithKey):
    """Where API nodes call their providers, and store files: a gateway's business, if there is one.

    Any method. A node with a bad key must hear of the key, not of a missing address.
    """

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        raise Refused(
            "NOT_FOUND",
            _("No gateway is set up at this address. Ask whoever runs this site."),
            status.HTTP_404_NOT_FOUND,
        )

    post = put = patch = delete = get

    def wanted_scope(self, request: Request) -> str | None:
        _empty, *path = request.path.split("/")
        return scopes.for_provider(path[1]) if path[0] == "proxy" else scopes.SIGN_IN


class ReleasesEndpoint(Endpoint):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["ComfyUI"],
        summary="What is new in ComfyUI: nothing that we would know",
        description="ComfyUI asks as it starts, without a key; for an empty list it shows nothing.",
        responses={200: serializers.ListSerializer(child=serializers.DictField())},
    )
    def get(self, request: Request) -> Response:
        return Response([])


class WorkspaceSerializer(serializers.Serializer[User]):
    """An account as the one workspace that its key belongs to."""

    id = serializers.UUIDField()
    name = serializers.SerializerMethodField()
    type = serializers.SerializerMethodField()
    role = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField(source="date_joined")
    joined_at = serializers.DateTimeField(source="date_joined")

    def get_name(self, user: User) -> str:
        return display_name(user)

    def get_type(self, user: User) -> str:
        return "personal"

    def get_role(self, user: User) -> str:
        return "owner"


class WorkspaceEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="The workspace of a key: its account",
        responses={200: WorkspaceSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response(WorkspaceSerializer(account(request)).data)


class MemberSerializer(serializers.Serializer[User]):
    id = serializers.UUIDField()
    name = serializers.SerializerMethodField()
    email = serializers.EmailField()
    joined_at = serializers.DateTimeField(source="date_joined")
    role = serializers.SerializerMethodField()

    def get_name(self, user: User) -> str:
        return display_name(user)

    def get_role(self, user: User) -> str:
        return "owner"


class PaginationSerializer(serializers.Serializer[dict[str, int]]):
    offset = serializers.IntegerField()
    limit = serializers.IntegerField()
    total = serializers.IntegerField()


class MembersSerializer(serializers.Serializer[dict[str, object]]):
    members = MemberSerializer(many=True)
    pagination = PaginationSerializer()


class MembersEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Who is in the workspace of a key: its owner",
        responses={200: MembersSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        members = [account(request)]
        page = {"offset": 0, "limit": len(members), "total": len(members)}
        return Response(MembersSerializer({"members": members, "pagination": page}).data)


class BillingStatusSerializer(serializers.Serializer[dict[str, bool]]):
    is_active = serializers.BooleanField()
    has_funds = serializers.BooleanField()


class BillingStatusEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Nothing is gated: the operator pays",
        responses={200: BillingStatusSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response({"is_active": True, "has_funds": True})


class PlansSerializer(serializers.Serializer[dict[str, object]]):
    plans = serializers.ListField(child=serializers.DictField())


class PlansEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="What may be subscribed to: nothing",
        responses={200: PlansSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response({"plans": []})


# All that the frontend knows of. An account here is one person's, and the operator pays for it:
# its workflows run, and there is nobody to invite, nothing to cancel and nothing to top up.
_CAPABILITIES = {
    "can_cancel": False,
    "can_change_seats": False,
    "can_delete_workspace": False,
    "can_downgrade_to_personal": False,
    "can_edit_workspace": False,
    "can_invite_members": False,
    "can_leave_workspace": False,
    "can_manage_auto_top_up": False,
    "can_manage_billing": False,
    "can_manage_members": False,
    "can_manage_partner_node_access": False,
    "can_manage_subscription": False,
    "can_open_plans": False,
    "can_reactivate": False,
    "can_revert_scheduled_change": False,
    "can_run_workflows": True,
    "can_subscribe_self_serve": False,
    "can_top_up": False,
    "can_upgrade": False,
    "can_view_own_usage": False,
    "can_view_pending_invites": False,
    "can_view_team_usage": False,
}
_GUESSED = ("can_downgrade_to_personal", "can_subscribe_self_serve", "can_top_up")


class CapabilityScopeSerializer(serializers.Serializer[dict[str, object]]):
    user_id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()


class CapabilitiesSerializer(serializers.Serializer[dict[str, object]]):
    """What the holder of a key may do with the workspace of that key."""

    capabilities = serializers.DictField(child=serializers.BooleanField())
    resolved_for = CapabilityScopeSerializer()
    rollout_defaults_applied = serializers.DictField(child=serializers.BooleanField())
    revision = serializers.IntegerField()
    expires_at = serializers.DateTimeField()


class CapabilitiesEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="What may be done in the workspace of a key: run workflows",
        responses={200: CapabilitiesSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        user = account(request)
        answer = {
            "capabilities": _CAPABILITIES,
            "resolved_for": {"user_id": user.pk, "workspace_id": user.pk},
            "rollout_defaults_applied": dict.fromkeys(_GUESSED, False),
            "revision": 1,
            # It never changes; the frontend asks again within the hour whatever is said here.
            "expires_at": timezone.now() + timedelta(hours=1),
        }
        return Response(CapabilitiesSerializer(answer).data)


class FeaturesEndpoint(WithKey):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Features of a hosted ComfyUI: none",
        responses={200: OpenApiTypes.OBJECT, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response({})


def _number(request: Request, name: str, *, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and 1 <= int(text) <= most):
        raise BadRequest(
            "INVALID_REQUEST",
            _("%(name)s is a whole number from 1 to %(most)d.") % {"name": name, "most": most},
        )
    return int(text)
