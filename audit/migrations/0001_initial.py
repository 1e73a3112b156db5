"""All tables of the daybook. `audit_record` is partitioned by day, which Django's schema editor cannot say: its DDL is below."""

from datetime import timedelta

from django.db import migrations, models
from django.utils import timezone

from audit import partitions

# Defaults live in the database, so that a COPY which names only the columns of an older row format still fits.
RECORD_SQL = """
CREATE TABLE audit_record (
    ts timestamptz NOT NULL,
    id uuid NOT NULL,
    leaf_hash bytea NOT NULL,
    kind text NOT NULL DEFAULT 'prediction',
    protocol text NOT NULL DEFAULT '',
    verb text NOT NULL DEFAULT '',
    model text NOT NULL DEFAULT '',
    version bigint,
    signature text NOT NULL DEFAULT '',
    artifact bytea,
    outcome text NOT NULL DEFAULT 'ok',
    status smallint NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT '',
    actor_type text NOT NULL DEFAULT '',
    key_prefix text NOT NULL DEFAULT '',
    application text NOT NULL DEFAULT '',
    user_name text NOT NULL DEFAULT '',
    address text NOT NULL DEFAULT '',
    trace bytea,
    request_bytes integer NOT NULL DEFAULT 0,
    response_bytes integer NOT NULL DEFAULT 0,
    rows integer NOT NULL DEFAULT 0,
    total_us bigint NOT NULL DEFAULT 0,
    queue_us integer NOT NULL DEFAULT 0,
    model_us integer NOT NULL DEFAULT 0,
    batch_id bigint NOT NULL DEFAULT 0,
    batch_size integer NOT NULL DEFAULT 0,
    batch_index integer NOT NULL DEFAULT 0,
    worker text NOT NULL DEFAULT '',
    device text NOT NULL DEFAULT '',
    answer text NOT NULL DEFAULT '',
    count integer NOT NULL DEFAULT 1,
    node text NOT NULL DEFAULT '',
    segment uuid,
    segment_offset bigint NOT NULL DEFAULT 0,
    segment_length integer NOT NULL DEFAULT 0,
    PRIMARY KEY (ts, id)
) PARTITION BY RANGE (ts);
CREATE INDEX audit_record_model_ts ON audit_record (model, ts);
CREATE INDEX audit_record_application_ts ON audit_record (application, ts);
CREATE INDEX audit_record_not_ok_ts ON audit_record (ts) WHERE outcome <> 'ok';
CREATE TABLE audit_record_default PARTITION OF audit_record DEFAULT;
"""

# The outbox is a queue: rows live for a second, so it must be vacuumed by count and never compressed.
TUNING_SQL = """
ALTER TABLE audit_outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
ALTER TABLE audit_outbox ALTER COLUMN leaf SET STORAGE EXTERNAL;
ALTER TABLE audit_logtile ALTER COLUMN data SET STORAGE EXTERNAL;
"""


def make_partitions(apps, schema_editor):
    today = timezone.now().date()
    with schema_editor.connection.cursor() as cursor:
        for offset in range(-1, partitions.DAYS_AHEAD + 1):
            partitions.create_partition(cursor, today + timedelta(days=offset))


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                ("size", models.BigIntegerField(primary_key=True, serialize=False)),
                ("note", models.TextField()),
                ("made_at", models.DateTimeField()),
            ],
            options={
                "db_table": "audit_checkpoint",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="LogLeaf",
            fields=[
                ("index", models.BigIntegerField(primary_key=True, serialize=False)),
                ("record_id", models.UUIDField(unique=True)),
                ("leaf_hash", models.BinaryField(max_length=32)),
            ],
            options={
                "db_table": "audit_logleaf",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="LogTile",
            fields=[
                ("pk", models.CompositePrimaryKey("level", "n", blank=True, editable=False, primary_key=True, serialize=False)),
                ("level", models.SmallIntegerField()),
                ("n", models.BigIntegerField()),
                ("width", models.SmallIntegerField()),
                ("data", models.BinaryField()),
            ],
            options={
                "db_table": "audit_logtile",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("record_id", models.UUIDField(primary_key=True, serialize=False)),
                ("ts", models.DateTimeField()),
                ("leaf", models.BinaryField()),
            ],
            options={
                "db_table": "audit_outbox",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="ReceiptKey",
            fields=[
                ("key_id", models.BinaryField(max_length=8, primary_key=True, serialize=False)),
                ("node", models.TextField()),
                ("public_key", models.BinaryField(max_length=32)),
                ("started_at", models.DateTimeField()),
                ("record_id", models.UUIDField()),
            ],
            options={
                "db_table": "audit_receiptkey",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="JournalSegment",
            fields=[
                ("uuid", models.UUIDField(primary_key=True, serialize=False)),
                ("node", models.TextField()),
                ("path", models.TextField()),
                ("row_format", models.SmallIntegerField()),
                ("position", models.BigIntegerField()),
                ("void_from", models.BigIntegerField(null=True)),
                (
                    "state",
                    models.TextField(
                        choices=[("open", "Open"), ("closed", "Closed"), ("shipped", "Shipped"), ("damaged", "Damaged")], default="open"
                    ),
                ),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "db_table": "audit_journalsegment",
                "default_permissions": (),
                "indexes": [models.Index(fields=["node", "state"], name="audit_segment_node_state")],
            },
        ),
        migrations.CreateModel(
            name="LogHead",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("size", models.BigIntegerField(default=0)),
                ("root", models.BinaryField(max_length=32)),
                ("signed_size", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "audit_loghead",
                "default_permissions": (),
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="audit_loghead_one_row")],
            },
        ),
        migrations.CreateModel(
            name="PayloadKey",
            fields=[
                ("key_id", models.UUIDField(primary_key=True, serialize=False)),
                ("scope", models.TextField()),
                ("node", models.TextField()),
                ("wrapped", models.BinaryField(null=True)),
                ("created_at", models.DateTimeField()),
                ("destroyed_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "audit_payloadkey",
                "default_permissions": (),
                "indexes": [models.Index(fields=["scope"], name="audit_payloadkey_scope")],
            },
        ),
        migrations.CreateModel(
            name="Quarantine",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("record_id", models.UUIDField()),
                ("ts", models.DateTimeField(null=True)),
                ("row_format", models.SmallIntegerField()),
                ("row", models.BinaryField()),
                ("leaf", models.BinaryField()),
                ("error", models.TextField()),
                ("segment", models.UUIDField()),
                ("segment_offset", models.BigIntegerField()),
                ("segment_length", models.IntegerField()),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "db_table": "audit_quarantine",
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("segment", "segment_offset"), name="audit_quarantine_place")],
            },
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(RECORD_SQL, reverse_sql="DROP TABLE audit_record"),
                migrations.RunPython(make_partitions, migrations.RunPython.noop),
            ],
            state_operations=[
                migrations.CreateModel(
                    name="Record",
                    fields=[
                        ("pk", models.CompositePrimaryKey("ts", "id", blank=True, editable=False, primary_key=True, serialize=False)),
                        ("ts", models.DateTimeField()),
                        ("id", models.UUIDField()),
                        ("leaf_hash", models.BinaryField(max_length=32)),
                        ("kind", models.TextField(db_default="prediction")),
                        ("protocol", models.TextField(db_default="")),
                        ("verb", models.TextField(db_default="")),
                        ("model", models.TextField(db_default="")),
                        ("version", models.BigIntegerField(null=True)),
                        ("signature", models.TextField(db_default="")),
                        ("artifact", models.BinaryField(null=True)),
                        ("outcome", models.TextField(db_default="ok")),
                        ("status", models.SmallIntegerField(db_default=0)),
                        ("error", models.TextField(db_default="")),
                        ("actor_type", models.TextField(db_default="")),
                        ("key_prefix", models.TextField(db_default="")),
                        ("application", models.TextField(db_default="")),
                        ("user_name", models.TextField(db_default="")),
                        ("address", models.TextField(db_default="")),
                        ("trace", models.BinaryField(null=True)),
                        ("request_bytes", models.IntegerField(db_default=0)),
                        ("response_bytes", models.IntegerField(db_default=0)),
                        ("rows", models.IntegerField(db_default=0)),
                        ("total_us", models.BigIntegerField(db_default=0)),
                        ("queue_us", models.IntegerField(db_default=0)),
                        ("model_us", models.IntegerField(db_default=0)),
                        ("batch_id", models.BigIntegerField(db_default=0)),
                        ("batch_size", models.IntegerField(db_default=0)),
                        ("batch_index", models.IntegerField(db_default=0)),
                        ("worker", models.TextField(db_default="")),
                        ("device", models.TextField(db_default="")),
                        ("answer", models.TextField(db_default="")),
                        ("count", models.IntegerField(db_default=1)),
                        ("node", models.TextField(db_default="")),
                        ("segment", models.UUIDField(null=True)),
                        ("segment_offset", models.BigIntegerField(db_default=0)),
                        ("segment_length", models.IntegerField(db_default=0)),
                    ],
                    options={
                        "db_table": "audit_record",
                        "permissions": (("view_payload", "Can view payloads"), ("export_record", "Can export records")),
                        "default_permissions": ("view",),
                        "indexes": [
                            models.Index(fields=["model", "ts"], name="audit_record_model_ts"),
                            models.Index(fields=["application", "ts"], name="audit_record_application_ts"),
                            models.Index(
                                condition=models.Q(("outcome", "ok"), _negated=True), fields=["ts"], name="audit_record_not_ok_ts"
                            ),
                        ],
                    },
                ),
            ],
        ),
        migrations.RunSQL(TUNING_SQL, reverse_sql=migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Rollup",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "bucket",
                        "model",
                        "version",
                        "outcome",
                        "caller",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("bucket", models.DateTimeField()),
                ("model", models.TextField()),
                ("version", models.BigIntegerField(default=-1)),
                ("outcome", models.TextField()),
                ("caller", models.TextField()),
                ("count", models.BigIntegerField(default=0)),
                ("total_us", models.BigIntegerField(default=0)),
                ("queue_us", models.BigIntegerField(default=0)),
                ("model_us", models.BigIntegerField(default=0)),
                ("sketch", models.BinaryField(default=b"")),
                ("tree_size", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "audit_rollup",
                "default_permissions": (),
                "indexes": [models.Index(fields=["model", "bucket"], name="audit_rollup_model_bucket")],
            },
        ),
    ]
