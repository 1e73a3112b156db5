"""Indexes for people's own records and for traces: without them a rare user's list reads every partition.

Measured with COPY of 20,000 rows: 10.4 µs a row before, 12.0 with the first, 10.7 with the second.
"""

import django.contrib.postgres.indexes
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("audit", "0002_sealerstatus")]

    operations = [
        migrations.AddIndex(model_name="record", index=models.Index(fields=["user_name", "ts"], name="audit_record_user_ts")),
        migrations.AddIndex(
            model_name="record", index=django.contrib.postgres.indexes.HashIndex(fields=["trace"], name="audit_record_trace")
        ),
    ]
