import json
from pathlib import Path

from django.db import migrations


def seed(apps, schema_editor):
    """The first taxonomy. Tasks follow Hugging Face's pipeline tags (huggingface.js, packages/tasks) and extend them."""
    Tag = apps.get_model("catalog", "Tag")
    rows = json.loads(Path(__file__).with_suffix(".json").read_text())
    Tag.objects.bulk_create(Tag(**{key: value for key, value in row.items() if key != "parent"}) for row in rows)
    tasks = {tag.slug: tag for tag in Tag.objects.filter(namespace="task")}
    for row in rows:
        if "parent" in row:
            Tag.objects.filter(pk=tasks[row["slug"]].pk).update(parent=tasks[row["parent"]])


def clear(apps, schema_editor):
    Tag = apps.get_model("catalog", "Tag")
    Tag.objects.update(parent=None)
    Tag.objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0002_catalog")]

    operations = [migrations.RunPython(seed, clear)]
