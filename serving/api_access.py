"""Management API of who may call: an entry's access, and the approvals of applications. The same services as the page."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from catalog.access import get_entry
from catalog.models import Entry, Subscription

from . import access, subscriptions
from .authentication import require_reach


class EntryAccessSerializer(serializers.ModelSerializer[Entry]):
    """Who may call: `open`, with a `key`, or on approval (`subscription`)."""

    api = serializers.CharField(source="slug", read_only=True)
    access = serializers.ChoiceField(choices=Entry.Access.choices)

    class Meta:
        model = Entry
        fields = ("api", "access")


@extend_schema(tags=["access"])
class AccessViewSet(viewsets.ViewSet):
    """Who may call an API. Changed by its owner."""

    names_api = "slug"

    permission_classes = (IsAuthenticated,)
    serializer_class = EntryAccessSerializer
    lookup_field = "slug"
    lookup_value_regex = "[^/]+"

    @extend_schema(responses=EntryAccessSerializer)
    def retrieve(self, request: Request, slug: str) -> Response:
        return Response(EntryAccessSerializer(get_entry(request.user, slug)).data)

    @extend_schema(request=EntryAccessSerializer, responses=EntryAccessSerializer)
    def partial_update(self, request: Request, slug: str) -> Response:
        entry = access.get_managed_entry(request.user, slug)
        serializer = EntryAccessSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        subscriptions.set_access(entry=entry, access=serializer.validated_data["access"], actor=request.user.get_username())
        return Response(EntryAccessSerializer(entry).data)


class SubscriptionSerializer(serializers.ModelSerializer[Subscription]):
    """`application` is named by its number when asking, by name and `owner` in answers: it may be gone tomorrow."""

    api = serializers.CharField(source="entry.slug")
    application = serializers.CharField()
    owner = serializers.CharField(source="asked_by")

    class Meta:
        model = Subscription
        fields = ("id", "api", "application", "owner", "state", "reason", "created_at", "changed_at")


class AskSerializer(serializers.Serializer[Any]):
    api = serializers.CharField(max_length=100)
    application = serializers.IntegerField(help_text="The id of an application of yours.")
    reason = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")


@extend_schema(tags=["access"])
class SubscriptionViewSet(viewsets.ViewSet):
    """Approvals: those of your applications, and those of the APIs that you own."""

    permission_classes = (IsAuthenticated,)
    serializer_class = SubscriptionSerializer
    lookup_value_regex = "[0-9]{1,18}"

    @extend_schema(responses=SubscriptionSerializer(many=True))
    def list(self, request: Request) -> Response:
        return Response(SubscriptionSerializer(access.subscriptions_of(request.user), many=True).data)

    @extend_schema(responses=SubscriptionSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(SubscriptionSerializer(access.get_subscription(request.user, int(pk))).data)

    @extend_schema(request=AskSerializer, responses={201: SubscriptionSerializer})
    def create(self, request: Request) -> Response:
        serializer = AskSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        values = serializer.validated_data
        require_reach(request.auth, [values["api"]])
        try:
            subscription = subscriptions.ask_subscription(
                entry=get_entry(request.user, values["api"]),
                application=access.get_application(request.user, values["application"]),
                actor=request.user.get_username(),
                reason=values["reason"],
            )
        except subscriptions.InvalidSubscription as error:
            raise serializers.ValidationError({"api": [str(error)]}) from error
        return Response(SubscriptionSerializer(subscription).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=SubscriptionSerializer)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        return self._decide(request, pk, Subscription.State.APPROVED)

    @extend_schema(request=None, responses=SubscriptionSerializer)
    @action(detail=True, methods=["post"])
    def refuse(self, request: Request, pk: str) -> Response:
        return self._decide(request, pk, Subscription.State.REFUSED)

    @extend_schema(request=None, responses=SubscriptionSerializer)
    @action(detail=True, methods=["post"])
    def end(self, request: Request, pk: str) -> Response:
        """End an approval, or take back what was asked: for the owner of the API and of the application."""
        return self._decide(request, pk, Subscription.State.ENDED)

    def _decide(self, request: Request, pk: str, state: Subscription.State) -> Response:
        subscription = access.get_subscription(request.user, int(pk))
        access.require_decider(request.user, subscription, state)
        require_reach(request.auth, [subscription.entry.slug])
        try:
            subscriptions.decide_subscription(subscription=subscription, state=state, actor=request.user.get_username())
        except subscriptions.InvalidSubscription as error:
            raise serializers.ValidationError({"state": [str(error)]}) from error
        return Response(SubscriptionSerializer(subscription).data)
