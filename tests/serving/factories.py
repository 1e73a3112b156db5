"""People, deployments and keys for tests, made through the services wherever there is one."""

from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group, User

from serving.engine.servable import Signature, TensorSpec
from serving.keys import create_application, issue_key
from serving.models import APIKey, Application, Deployment
from serving.services import create_deployment


def make_user(name: str = "ada", role: str = "viewer") -> User:
    user = User.objects.create_user(name, f"{name}@example.org", "correct horse battery")
    user.groups.add(Group.objects.get(name=role))
    return user


def make_application(owner: User, name: str = "notebook") -> Application:
    return create_application(name=name, owner=owner, actor=owner.username)


def make_key(owner: User, **rights: Any) -> tuple[APIKey, str]:
    application = Application.objects.filter(owner=owner).first() or make_application(owner)
    return issue_key(application=application, actor=owner.username, **rights)


def make_deployment(directory: Path, name: str = "half_plus_two", **fields: Any) -> Deployment:
    base_path = directory / name
    base_path.mkdir(parents=True, exist_ok=True)
    return create_deployment(name=name, base_path=str(base_path), actor="ada", anywhere=True, **fields)


SIGNATURE = Signature(
    method_name="tensorflow/serving/predict",
    inputs={"x": TensorSpec("x:0", "DT_FLOAT", (-1,))},
    outputs={"y": TensorSpec("y:0", "DT_FLOAT", (-1,))},
)
