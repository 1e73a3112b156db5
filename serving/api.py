"""Management API of deployments, applications and keys: the same services as the pages."""

from datetime import datetime
from typing import Any, cast

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from redis.exceptions import RedisError
from rest_framework import serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from . import access, keys
from .authentication import require_reach, require_within
from .fields import InvalidDeployment
from .live import LoadedVersion, WorkerStatus, read_workers
from .models import NAME, APIKey, Application, Deployment, VersionState
from .policy import InvalidPolicy, format_policy, parse_policy
from .services import change_deployment, create_deployment, remove_deployment, retry_deployment


def _actor(request: Request) -> str:
    return request.user.get_username()


class VersionStateSerializer(serializers.ModelSerializer[VersionState]):
    version = serializers.CharField()
    worker = serializers.CharField(source="worker_id")

    class Meta:
        model = VersionState
        fields = ("version", "state", "error_code", "error_message", "artifact", "worker", "since")


class DeploymentSerializer(serializers.ModelSerializer[Deployment]):
    """A deployment. `base_path` lies on the serving node; `policy` is latest:N, all or specific:1,2."""

    name = serializers.CharField(max_length=100, validators=[NAME])
    labels = serializers.DictField(child=serializers.IntegerField(min_value=0), required=False)
    batching = serializers.DictField(required=False)
    summary = serializers.CharField(max_length=200, required=False, write_only=True)
    access = serializers.ChoiceField(choices=("open", "key", "subscription"), required=False, write_only=True)
    versions = VersionStateSerializer(source="version_states", many=True, read_only=True)

    class Meta:
        model = Deployment
        fields = (
            "name", "base_path", "policy", "labels", "batching", "weight", "stateful", "timeout_ms", "answer_output",
            "answer_labels", "summary", "access", "versions", "created_by", "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = ("created_by", "created_at", "updated_at")

    def validate_policy(self, value: str) -> str:
        try:
            return format_policy(parse_policy(value))
        except InvalidPolicy as error:
            raise serializers.ValidationError(str(error)) from error


class DeploymentChangeSerializer(DeploymentSerializer):
    """What can be changed of a deployment. The card is changed at `/api/apis/`, who may call at `/api/access/`."""

    class Meta:
        model = Deployment
        fields = ("base_path", "policy", "labels", "batching", "weight", "timeout_ms", "answer_output", "answer_labels")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A field that can't be changed is refused: ignoring it would look like a change."""
        if unknown := set(self.initial_data) - set(self.fields):
            raise serializers.ValidationError({name: ["This can't be changed here."] for name in sorted(unknown)})
        return attrs


@extend_schema(tags=["deployments"])
class DeploymentViewSet(viewsets.ViewSet):
    """What is served. Reading and changing takes the operator's role, registering the publisher's; a key needs the scope `operate` for
    everything but reading."""

    scope_of_changes = "operate"
    names_api = "name"

    permission_classes = (IsAuthenticated,)
    serializer_class = DeploymentSerializer
    lookup_field = "name"
    lookup_value_regex = "[^/]+"

    @extend_schema(responses=DeploymentSerializer(many=True))
    def list(self, request: Request) -> Response:
        access.require_operator(request.user)
        return Response(DeploymentSerializer(Deployment.objects.with_states(), many=True).data)

    @extend_schema(responses=DeploymentSerializer)
    def retrieve(self, request: Request, name: str) -> Response:
        return Response(DeploymentSerializer(access.get_deployment(request.user, name)).data)

    @extend_schema(request=DeploymentSerializer, responses={201: DeploymentSerializer})
    def create(self, request: Request) -> Response:
        if not request.user.has_perm("catalog.publish_entry"):
            raise PermissionDenied("Only publishers may register models.")
        serializer = DeploymentSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        require_reach(request.auth, [serializer.validated_data["name"]])
        deployment = _refuse_as_field(create_deployment, actor=_actor(request), **serializer.validated_data)
        return Response(DeploymentSerializer(deployment).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=DeploymentChangeSerializer(partial=True), responses=DeploymentSerializer)
    def partial_update(self, request: Request, name: str) -> Response:
        deployment = access.get_deployment(request.user, name)
        serializer = DeploymentChangeSerializer(deployment, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        _refuse_as_field(change_deployment, deployment=deployment, actor=_actor(request), **serializer.validated_data)
        return Response(DeploymentSerializer(access.get_deployment(request.user, name)).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, name: str) -> Response:
        remove_deployment(deployment=access.get_deployment(request.user, name), actor=_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses={202: OpenApiResponse(description="Workers load its failed versions again.")})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, name: str) -> Response:
        retry_deployment(deployment=access.get_deployment(request.user, name), actor=_actor(request))
        return Response(status=status.HTTP_202_ACCEPTED)


class LoadedVersionSerializer(serializers.Serializer[LoadedVersion]):
    model = serializers.CharField()
    version = serializers.CharField()
    state = serializers.CharField()
    error = serializers.CharField()


class WorkerSerializer(serializers.Serializer[WorkerStatus]):
    """A serving worker as it shows itself: requests at it now, requests answered since its start, what it has loaded."""

    worker = serializers.CharField()
    node = serializers.CharField()
    held = serializers.IntegerField()
    answered = serializers.IntegerField()
    versions = LoadedVersionSerializer(many=True)


class Unreachable(APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "Redis can't be reached, so nothing is known of workers."


@extend_schema(tags=["deployments"])
class WorkerViewSet(viewsets.ViewSet):
    """Workers that are live now, from Redis: also what they can't report to PostgreSQL."""

    permission_classes = (IsAuthenticated,)
    serializer_class = WorkerSerializer

    @extend_schema(responses=WorkerSerializer(many=True))
    def list(self, request: Request) -> Response:
        access.require_operator(request.user)
        try:
            workers = read_workers(settings.REDIS_URL, settings.REDIS_PREFIX)
        except RedisError as error:
            raise Unreachable from error
        return Response([WorkerSerializer(worker).data for worker in workers])


def _refuse_as_field(service: Any, **arguments: Any) -> Deployment:
    """Call a service; its InvalidDeployment becomes a 400 that names the field."""
    try:
        return cast(Deployment, service(**arguments))
    except InvalidDeployment as error:
        raise serializers.ValidationError({error.field: [error.message]}) from error


class ApplicationSerializer(serializers.ModelSerializer[Application]):
    owner = serializers.CharField(source="owner.username", read_only=True)

    class Meta:
        model = Application
        fields = ("id", "name", "owner", "created_at")


@extend_schema(tags=["keys"])
class ApplicationViewSet(viewsets.ViewSet):
    """Your applications; all of them for who manages the keys of others."""

    permission_classes = (IsAuthenticated,)
    serializer_class = ApplicationSerializer
    lookup_value_regex = "[0-9]{1,18}"  # what a bigint holds

    @extend_schema(responses=ApplicationSerializer(many=True))
    def list(self, request: Request) -> Response:
        return Response(ApplicationSerializer(Application.objects.of(request.user).select_related("owner"), many=True).data)

    @extend_schema(request=ApplicationSerializer, responses={201: ApplicationSerializer})
    def create(self, request: Request) -> Response:
        serializer = ApplicationSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        name = serializer.validated_data["name"]
        if Application.objects.filter(owner_id=request.user.pk, name=name).exists():
            raise serializers.ValidationError({"name": [f"You have an application named {name!r} already."]})
        application = keys.create_application(name=name, owner=request.user, actor=_actor(request))
        return Response(ApplicationSerializer(application).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        keys.delete_application(application=access.get_application(request.user, int(pk)), actor=_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class KeySerializer(serializers.ModelSerializer[APIKey]):
    application = serializers.IntegerField(source="application_id")
    state = serializers.SerializerMethodField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=tuple(keys.SCOPES)), required=False)
    apis = serializers.ListField(child=serializers.CharField(max_length=100), required=False)

    class Meta:
        model = APIKey
        fields = (
            "prefix", "application", "scopes", "apis", "requests_per_second", "concurrency", "state", "created_at", "expires_at",
            "revoked_at",
        )  # fmt: skip
        read_only_fields = ("prefix", "created_at", "revoked_at")

    @extend_schema_field(serializers.CharField())
    def get_state(self, key: APIKey) -> str:
        return key.state


class NewKeySerializer(KeySerializer):
    """A key just made: `key` is its text, shown here and never again."""

    key = serializers.CharField(read_only=True)

    class Meta(KeySerializer.Meta):
        fields = (*KeySerializer.Meta.fields, "key")  # type: ignore[assignment]  # one field more


@extend_schema(tags=["keys"])
class KeyViewSet(viewsets.ViewSet):
    """API keys of your applications. A key makes and rotates no key that may do more than itself."""

    permission_classes = (IsAuthenticated,)
    serializer_class = KeySerializer
    lookup_field = "prefix"
    lookup_value_regex = "[A-Za-z0-9_]+"

    @extend_schema(responses=KeySerializer(many=True))
    def list(self, request: Request) -> Response:
        return Response(KeySerializer(APIKey.objects.of(request.user), many=True).data)

    @extend_schema(responses=KeySerializer)
    def retrieve(self, request: Request, prefix: str) -> Response:
        return Response(KeySerializer(access.get_key(request.user, prefix)).data)

    @extend_schema(request=KeySerializer, responses={201: NewKeySerializer})
    def create(self, request: Request) -> Response:
        serializer = KeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        values: dict[str, Any] = dict(serializer.validated_data)
        application = access.get_application(request.user, values.pop("application_id"))
        access.require_own(request.user, application)
        require_within(
            request.auth,
            scopes=values.get("scopes", keys.DEFAULT_SCOPES),
            apis=values.get("apis", keys.ALL_APIS),
            expires_at=values.get("expires_at"),
        )
        return _new_key(_issue(application=application, actor=_actor(request), **values))

    @extend_schema(request=None, responses={201: NewKeySerializer})
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, prefix: str) -> Response:
        key = access.get_key(request.user, prefix)
        access.require_own(request.user, key.application)
        require_within(request.auth, scopes=key.scopes, apis=key.apis)
        return _new_key(keys.rotate_key(key=key, actor=_actor(request)))

    @extend_schema(responses={204: OpenApiResponse(description="Revoked; it stops working within a second.")})
    def destroy(self, request: Request, prefix: str) -> Response:
        keys.revoke_key(key=access.get_key(request.user, prefix), actor=_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


def _issue(*, application: Application, actor: str, expires_at: datetime | None = None, **rights: Any) -> tuple[APIKey, str]:
    try:
        return keys.issue_key(application=application, actor=actor, expires_at=expires_at, **rights)
    except keys.InvalidKey as error:
        raise serializers.ValidationError(str(error)) from error


def _new_key(made: tuple[APIKey, str]) -> Response:
    key, text = made
    response = Response({**KeySerializer(key).data, "key": text}, status=status.HTTP_201_CREATED)
    response["Cache-Control"] = "no-store"
    return response
