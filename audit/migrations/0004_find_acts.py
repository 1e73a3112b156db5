"""Indexes for acts, which are few among many calls: the newest of them, of one subject or of all, without reading past the calls."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_find_traces_and_own_records")]

    operations = [
        migrations.AddIndex(
            model_name="record",
            index=models.Index(fields=["model", "ts"], name="audit_record_act_model_ts", condition=models.Q(kind="act")),
        ),
        migrations.AddIndex(
            model_name="record", index=models.Index(fields=["ts"], name="audit_record_act_ts", condition=models.Q(kind="act"))
        ),
    ]
