import hashlib
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from audit.models import Outbox, Record
from serving.keys import InvalidKey, delete_application, find_key_by_text, issue_key, revoke_key, rotate_key
from serving.models import APIKey
from serving.publication import current

from .factories import make_application, make_key, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return make_user("ada")


def test_a_key_is_stored_as_its_hash_only(ada: User) -> None:
    key, text = make_key(ada)
    assert text.startswith(key.prefix + "_")
    assert key.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert text not in str(APIKey.objects.values().get(pk=key.pk))
    assert find_key_by_text(text) == key


def test_gateways_learn_a_key_and_forget_a_revoked_one(ada: User) -> None:
    key, _ = make_key(ada, scopes=("predict",), requests_per_second=5)
    snapshot = current()
    assert snapshot is not None
    published = snapshot.keys[key.sha256]
    assert (published.prefix, published.user, published.scopes, published.limits.requests_per_second) == (
        key.prefix,
        "ada",
        ("predict",),
        5,
    )
    revoke_key(key=key, actor="ada")
    after = current()
    assert after is not None
    assert key.sha256 not in after.keys
    assert after.version > snapshot.version


def test_a_revoked_or_expired_key_is_not_found(ada: User) -> None:
    key, text = make_key(ada)
    revoke_key(key=key, actor="ada")
    assert find_key_by_text(text) is None
    other, other_text = make_key(ada)
    APIKey.objects.filter(pk=other.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert find_key_by_text(other_text) is None


def test_rotation_leaves_both_keys_usable_until_the_overlap_ends(ada: User) -> None:
    key, text = make_key(ada, scopes=("predict",), concurrency=3)
    successor, new_text = rotate_key(key=key, actor="ada", overlap=timedelta(hours=1))
    assert find_key_by_text(text) == key
    assert find_key_by_text(new_text) == successor
    assert (successor.scopes, successor.concurrency) == (["predict"], 3)
    key.refresh_from_db()
    assert key.expires_at is not None
    assert key.expires_at < timezone.now() + timedelta(hours=1, minutes=1)


def test_each_change_is_an_act_in_the_daybook(ada: User) -> None:
    key, _ = make_key(ada)
    revoke_key(key=key, actor="ada")
    revoke_key(key=key, actor="ada")
    delete_application(application=key.application, actor="ada")
    kinds = list(Record.objects.filter(kind="act").order_by("ts", "id").values_list("verb", flat=True))
    assert kinds == ["application.created", "key.issued", "key.revoked", "application.deleted"]


def test_no_leaf_holds_the_name_of_a_keys_owner() -> None:
    key, _ = make_key(make_user("grace-hopper"))
    rotate_key(key=key, actor="grace-hopper")
    delete_application(application=key.application, actor="grace-hopper")
    leaves = [bytes(leaf) for leaf in Outbox.objects.values_list("leaf", flat=True)]
    assert len(leaves) == 5
    assert not any(b"hopper" in leaf for leaf in leaves)


def test_an_unknown_scope_is_refused_by_name(ada: User) -> None:
    with pytest.raises(InvalidKey, match=r"'fly' is unknown, expected some of predict"):
        issue_key(application=make_application(ada), actor="ada", scopes=("fly",))


def test_a_key_of_somebody_inactive_is_not_published(ada: User) -> None:
    key, _ = make_key(ada)
    ada.is_active = False
    ada.save(update_fields=["is_active"])
    make_key(make_user("grace"))
    snapshot = current()
    assert snapshot is not None
    assert key.sha256 not in snapshot.keys
