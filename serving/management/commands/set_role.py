from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from serving.people import InvalidPerson, add_person, roles_of, set_roles
from serving.roles import ROLES

ACTOR = "system:command"


class Command(BaseCommand):
    help = "Give a person a role, or take it away."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user")
        parser.add_argument("role", choices=tuple(ROLES))
        way = parser.add_mutually_exclusive_group()
        way.add_argument("--take", action="store_true", help="take the role away")
        way.add_argument("--new", action="store_true", help="make the account first and print its password, once")

    def handle(self, *_args: Any, **options: Any) -> None:
        name, role = options["user"], options["role"]
        try:
            if options["new"]:
                _, password = add_person(name=name, roles=[role], actor=ACTOR)
                self.stdout.write(password)
                return
            person = User.objects.filter(username=name).first()
            if person is None:
                raise CommandError(f"user: there is no {name!r}; --new makes the account")
            held = set(roles_of(person))
            set_roles(person=person, roles=held - {role} if options["take"] else held | {role}, actor=ACTOR)
        except InvalidPerson as error:
            raise CommandError(str(error)) from error
        person.refresh_from_db()
        self.stdout.write(f"{name}: {', '.join(roles_of(person)) or 'no role'}")
