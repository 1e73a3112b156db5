"""Management API of people and their roles, for administrators: the same services as the pages."""

from typing import Any

from django.contrib.auth.models import User
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status, viewsets
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from . import access, people
from .roles import ROLES


class PersonSerializer(serializers.ModelSerializer[User]):
    """A person. `number` names them in the daybook, as `person:<number>`."""

    name = serializers.CharField(source="username", read_only=True)
    number = serializers.IntegerField(source="pk", read_only=True)
    roles = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ("name", "number", "email", "roles", "is_active", "is_superuser", "last_login")

    def get_roles(self, person: User) -> list[str]:
        return people.roles_of(person)


class RolesSerializer(serializers.Serializer[Any]):
    """All roles that a person shall hold."""

    roles = serializers.ListField(child=serializers.ChoiceField(choices=tuple(ROLES)))


class NewPersonSerializer(RolesSerializer):
    name = serializers.CharField(max_length=150)
    email = serializers.EmailField(required=False, allow_blank=True)


class MadePersonSerializer(PersonSerializer):
    """An account just made: `password` is its first one, shown here and never again."""

    password = serializers.CharField(read_only=True)

    class Meta(PersonSerializer.Meta):
        fields = (*PersonSerializer.Meta.fields, "password")  # type: ignore[assignment]  # one field more


@extend_schema(tags=["people"])
class PersonViewSet(viewsets.ViewSet):
    """People and their roles, for administrators."""

    permission_classes = (IsAuthenticated,)
    serializer_class = PersonSerializer
    lookup_field = "name"
    lookup_value_regex = "[^/]+"

    @extend_schema(responses=PersonSerializer(many=True))
    def list(self, request: Request) -> Response:
        access.require_administrator(request.user)
        return Response(PersonSerializer(User.objects.prefetch_related("groups").order_by("username"), many=True).data)

    @extend_schema(responses=PersonSerializer)
    def retrieve(self, request: Request, name: str) -> Response:
        return Response(PersonSerializer(access.get_person(request.user, name)).data)

    @extend_schema(request=NewPersonSerializer, responses={201: MadePersonSerializer})
    def create(self, request: Request) -> Response:
        access.require_administrator(request.user)
        serializer = NewPersonSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            person, password = people.add_person(actor=request.user.get_username(), **serializer.validated_data)
        except people.InvalidPerson as error:
            raise serializers.ValidationError({error.field: [error.message]}) from error
        response = Response({**PersonSerializer(person).data, "password": password}, status=status.HTTP_201_CREATED)
        response["Cache-Control"] = "no-store"
        return response

    @extend_schema(request=RolesSerializer, responses=PersonSerializer)
    def partial_update(self, request: Request, name: str) -> Response:
        person = access.get_person(request.user, name)
        serializer = RolesSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            people.set_roles(person=person, roles=serializer.validated_data["roles"], actor=request.user.get_username())
        except people.InvalidPerson as error:
            raise serializers.ValidationError({error.field: [error.message]}) from error
        return Response(PersonSerializer(access.get_person(request.user, name)).data)
