"""The sealer's own row: public keys, heartbeat, why it stopped."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="SealerStatus",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("origin", models.TextField()),
                ("vkeys", models.TextField()),
                ("state", models.TextField()),
                ("seen_at", models.DateTimeField()),
            ],
            options={
                "db_table": "audit_sealerstatus",
                "default_permissions": (),
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="audit_sealerstatus_one_row")],
            },
        ),
    ]
