"""An account as the one workspace of its keys; features of ComfyUI and its releases."""

from datetime import timedelta

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from accounts.requests import current_user
from accounts.services import display_name
from apikeys.api import schema
from apikeys.api.base import BaseView
from apikeys.api.comfyui.base import KeyRequiredView


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


class WorkspaceView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="The workspace of a key: its owner's account",
        responses={200: WorkspaceSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response(WorkspaceSerializer(current_user(request)).data)


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


class MembersView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Members of the workspace of a key: its owner",
        responses={200: MembersSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        members = [current_user(request)]
        page = {"offset": 0, "limit": len(members), "total": len(members)}
        return Response(MembersSerializer({"members": members, "pagination": page}).data)


# All capabilities that the frontend knows. An account has one user and the operator pays: workflows
# run, but there are no members to invite, no subscription and no credits.
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
_ROLLOUT_DEFAULTS = ("can_downgrade_to_personal", "can_subscribe_self_serve", "can_top_up")


class CapabilityScopeSerializer(serializers.Serializer[dict[str, object]]):
    user_id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()


class CapabilitiesSerializer(serializers.Serializer[dict[str, object]]):
    """What the owner of a key may do in the workspace of the key."""

    capabilities = serializers.DictField(child=serializers.BooleanField())
    resolved_for = CapabilityScopeSerializer()
    rollout_defaults_applied = serializers.DictField(child=serializers.BooleanField())
    revision = serializers.IntegerField()
    expires_at = serializers.DateTimeField()


class CapabilitiesView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Capabilities in the workspace of a key: run workflows",
        responses={200: CapabilitiesSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        user = current_user(request)
        capabilities = {
            "capabilities": _CAPABILITIES,
            "resolved_for": {"user_id": user.pk, "workspace_id": user.pk},
            "rollout_defaults_applied": dict.fromkeys(_ROLLOUT_DEFAULTS, False),
            "revision": 1,
            # Constant. The frontend requests it every hour in any case.
            "expires_at": timezone.now() + timedelta(hours=1),
        }
        return Response(CapabilitiesSerializer(capabilities).data)


class FeaturesView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Features of a hosted ComfyUI: none",
        responses={200: OpenApiTypes.OBJECT, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response({})


class ReleasesView(BaseView):
    authentication_classes = []
    permission_classes = []
    parameters = None

    @extend_schema(
        tags=["ComfyUI"],
        summary="ComfyUI release notes: always empty",
        description="ComfyUI requests this at start, without a key, and shows nothing "
        "for an empty list.",
        responses={200: serializers.ListSerializer(child=serializers.DictField())},
    )
    def get(self, request: Request) -> Response:
        return Response([])
