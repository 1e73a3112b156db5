"""Tables of the daybook. They hold names and digests as values, never foreign keys: a record outlives what it describes.

The way of a record through them: the scribe writes `Record` and `Outbox` and moves `JournalSegment.position` in one transaction;
the sealer turns outbox rows into `LogLeaf`, `LogTile` and `Rollup` rows and moves `LogHead`, again in one; `Checkpoint` is what
it then signs. No code updates or deletes a record.
"""

from django.contrib.postgres.indexes import HashIndex
from django.db import models


class Record(models.Model):
    """One call, act or event, narrow: lists never touch a payload. Partitioned by day of `ts` (migration 0001).

    `ts` is the time inside `id`, a UUIDv7 with microseconds. The row points at its segment entry, where leaf and payloads are;
    `segment` is null for records that were inserted in the transaction of the change they describe.
    """

    pk = models.CompositePrimaryKey("ts", "id")
    ts = models.DateTimeField()
    id = models.UUIDField()
    leaf_hash = models.BinaryField(max_length=32)
    kind = models.TextField(db_default="prediction")  # prediction, refusal, read, act, system
    protocol = models.TextField(db_default="")
    verb = models.TextField(db_default="")
    model = models.TextField(db_default="")
    version = models.BigIntegerField(null=True)
    signature = models.TextField(db_default="")
    artifact = models.BinaryField(null=True)
    outcome = models.TextField(db_default="ok")
    status = models.SmallIntegerField(db_default=0)
    error = models.TextField(db_default="")
    actor_type = models.TextField(db_default="")
    key_prefix = models.TextField(db_default="")
    application = models.TextField(db_default="")
    user_name = models.TextField(db_default="")
    address = models.TextField(db_default="")
    trace = models.BinaryField(null=True)
    request_bytes = models.IntegerField(db_default=0)
    response_bytes = models.IntegerField(db_default=0)
    rows = models.IntegerField(db_default=0)
    total_us = models.BigIntegerField(db_default=0)
    queue_us = models.IntegerField(db_default=0)
    model_us = models.IntegerField(db_default=0)
    batch_id = models.BigIntegerField(db_default=0)
    batch_size = models.IntegerField(db_default=0)
    batch_index = models.IntegerField(db_default=0)
    worker = models.TextField(db_default="")
    device = models.TextField(db_default="")
    answer = models.TextField(db_default="")
    count = models.IntegerField(db_default=1)  # > 1: an aggregate of refusals
    node = models.TextField(db_default="")
    segment = models.UUIDField(null=True)
    segment_offset = models.BigIntegerField(db_default=0)
    segment_length = models.IntegerField(db_default=0)

    class Meta:
        db_table = "audit_record"
        default_permissions = ("view",)
        permissions = (("view_payload", "Can view payloads"), ("export_record", "Can export records"))
        indexes = (
            models.Index(fields=("model", "ts"), name="audit_record_model_ts"),
            models.Index(fields=("application", "ts"), name="audit_record_application_ts"),
            models.Index(fields=("user_name", "ts"), name="audit_record_user_ts"),  # people's own records
            models.Index(fields=("ts",), name="audit_record_not_ok_ts", condition=~models.Q(outcome="ok")),
            HashIndex(fields=("trace",), name="audit_record_trace"),
            models.Index(fields=("model", "ts"), name="audit_record_act_model_ts", condition=models.Q(kind="act")),
            models.Index(fields=("ts",), name="audit_record_act_ts", condition=models.Q(kind="act")),
        )

    def __str__(self) -> str:
        return str(self.id)


class Outbox(models.Model):
    """What is ingested and waits to be sealed. Its unpartitioned key makes "exactly once" a constraint."""

    record_id = models.UUIDField(primary_key=True)
    ts = models.DateTimeField()
    leaf = models.BinaryField()

    class Meta:
        db_table = "audit_outbox"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.record_id)


class LogLeaf(models.Model):
    """The place of a record in the log: contiguous zero-based indices."""

    index = models.BigIntegerField(primary_key=True)
    record_id = models.UUIDField(unique=True)
    leaf_hash = models.BinaryField(max_length=32)

    class Meta:
        db_table = "audit_logleaf"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.index)


class LogTile(models.Model):
    """A tile of the log in tlog-tiles form; level -1 holds the entry bundles. `width` is 1 to 256."""

    pk = models.CompositePrimaryKey("level", "n")
    level = models.SmallIntegerField()
    n = models.BigIntegerField()
    width = models.SmallIntegerField()
    data = models.BinaryField()

    class Meta:
        db_table = "audit_logtile"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.level}/{self.n}"


class LogHead(models.Model):
    """The committed head of the log: one row, moved by `UPDATE … WHERE size = read size` under the sealer's lock."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    size = models.BigIntegerField(default=0)
    root = models.BinaryField(max_length=32)
    signed_size = models.BigIntegerField(default=0)

    class Meta:
        db_table = "audit_loghead"
        default_permissions = ()
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="audit_loghead_one_row"),)

    def __str__(self) -> str:
        return str(self.size)


class SealerStatus(models.Model):
    """What the sealer says of itself, one row: its public keys (`vkey` lines), when it was last seen, why it stopped."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    origin = models.TextField()
    vkeys = models.TextField()  # the log's own key first, one a line
    state = models.TextField()  # "sealing" or "stopped: <why>"
    seen_at = models.DateTimeField()

    class Meta:
        db_table = "audit_sealerstatus"
        default_permissions = ()
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="audit_sealerstatus_one_row"),)

    def __str__(self) -> str:
        return self.state


class Checkpoint(models.Model):
    """A signed checkpoint as published, signatures included."""

    size = models.BigIntegerField(primary_key=True)
    note = models.TextField()
    made_at = models.DateTimeField()

    class Meta:
        db_table = "audit_checkpoint"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.size)


class JournalSegment(models.Model):
    """How far a journal segment is ingested. `position` moves only by `UPDATE … WHERE position = old`, with the rows."""

    class State(models.TextChoices):
        OPEN = "open"  # may still grow, or waits to be drained
        CLOSED = "closed"  # every whole group is ingested
        SHIPPED = "shipped"  # also in the payload store, gone from the journal directory
        DAMAGED = "damaged"  # an acknowledged group could not be read: kept, alarmed

    uuid = models.UUIDField(primary_key=True)
    node = models.TextField()
    path = models.TextField()  # file name in the journal directory, key in the payload store once shipped
    row_format = models.SmallIntegerField()
    position = models.BigIntegerField()
    void_from = models.BigIntegerField(null=True)  # groups from here on were answered 503: never ingest them
    state = models.TextField(choices=State.choices, default=State.OPEN)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "audit_journalsegment"
        default_permissions = ()
        indexes = (models.Index(fields=("node", "state"), name="audit_segment_node_state"),)

    def __str__(self) -> str:
        return str(self.uuid)


class PayloadKey(models.Model):
    """A payload key, wrapped by its node's master key. Erasure empties `wrapped` and sets `destroyed_at`."""

    key_id = models.UUIDField(primary_key=True)
    scope = models.TextField()  # "<tenant>/<YYYY-MM>"
    node = models.TextField()
    wrapped = models.BinaryField(null=True)
    created_at = models.DateTimeField()
    destroyed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "audit_payloadkey"
        default_permissions = ()
        indexes = (models.Index(fields=("scope",), name="audit_payloadkey_scope"),)

    def __str__(self) -> str:
        return str(self.key_id)


class Quarantine(models.Model):
    """A record whose row PostgreSQL refused: kept as bytes and still sealed through the outbox."""

    id = models.BigAutoField(primary_key=True)
    record_id = models.UUIDField()
    ts = models.DateTimeField(null=True)
    row_format = models.SmallIntegerField()
    row = models.BinaryField()
    leaf = models.BinaryField()
    error = models.TextField()
    segment = models.UUIDField()
    segment_offset = models.BigIntegerField()
    segment_length = models.IntegerField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "audit_quarantine"
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("segment", "segment_offset"), name="audit_quarantine_place"),)

    def __str__(self) -> str:
        return str(self.record_id)


class Rollup(models.Model):
    """Figures of one minute, folded from sealed leaves. `tree_size` is the log's size they were last moved at."""

    NO_VERSION = -1

    pk = models.CompositePrimaryKey("bucket", "model", "version", "outcome", "caller")
    bucket = models.DateTimeField()
    model = models.TextField()
    version = models.BigIntegerField(default=NO_VERSION)
    outcome = models.TextField()
    caller = models.TextField()  # the pseudonym in the leaf, "" = anonymous
    count = models.BigIntegerField(default=0)
    total_us = models.BigIntegerField(default=0)
    queue_us = models.BigIntegerField(default=0)
    model_us = models.BigIntegerField(default=0)
    sketch = models.BinaryField(default=b"")  # DDSketch of total_us
    tree_size = models.BigIntegerField(default=0)

    class Meta:
        db_table = "audit_rollup"
        default_permissions = ()
        indexes = (models.Index(fields=("model", "bucket"), name="audit_rollup_model_bucket"),)

    def __str__(self) -> str:
        return f"{self.bucket} {self.model}"


class ReceiptKey(models.Model):
    """The key with which one gateway start signs its receipts, announced by the leaf `record_id`."""

    key_id = models.BinaryField(primary_key=True, max_length=8)
    node = models.TextField()
    public_key = models.BinaryField(max_length=32)
    started_at = models.DateTimeField()
    record_id = models.UUIDField()

    class Meta:
        db_table = "audit_receiptkey"
        default_permissions = ()

    def __str__(self) -> str:
        return bytes(self.key_id).hex()
