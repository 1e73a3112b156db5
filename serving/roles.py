"""Who may do what: five roles as Django groups, each with the permissions of the one before it that it needs.

The table is the whole policy; `sync_roles` makes the groups agree with it after each migration. A group that somebody gave more
permissions by hand is put back, since an audit reads this file.
"""

from typing import Any

ROLES: dict[str, tuple[str, ...]] = {
    "viewer": (),  # sees the public catalog, owns applications and keys, sees the records of their own calls
    "publisher": ("catalog.publish_entry",),
    "operator": ("catalog.publish_entry", "serving.operate_deployment", "audit.view_record"),
    "auditor": ("audit.view_record", "audit.view_payload", "audit.export_record"),
    "admin": (
        "catalog.publish_entry",
        "serving.operate_deployment",
        "serving.manage_keys_of_others",
        "auth.change_user",  # gives roles
        "audit.view_record",
        "audit.view_payload",
        "audit.export_record",
    ),
}

MEANINGS: dict[str, str] = {
    "viewer": "sees the catalog, has applications and keys",
    "publisher": "registers models and keeps their cards",
    "operator": "deploys and changes what is served, sees every record",
    "auditor": "sees every record and payload",
    "admin": "all of this, gives roles and manages everybody's keys",
}


def sync_roles(**_signal: Any) -> None:
    """Create the groups and set their permissions; called after each migration."""
    from django.apps import apps
    from django.contrib.auth.management import create_permissions
    from django.contrib.auth.models import Group, Permission

    for label in ("auth", "audit", "catalog", "serving"):
        create_permissions(apps.get_app_config(label), verbosity=0)
    for role, wanted in ROLES.items():
        group, _ = Group.objects.get_or_create(name=role)
        permissions = [
            Permission.objects.get(content_type__app_label=label, codename=codename)
            for label, codename in (name.split(".") for name in wanted)
        ]
        group.permissions.set(permissions)
