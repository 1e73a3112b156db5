from django.contrib.postgres.operations import TrigramExtension
from django.db import migrations


class Migration(migrations.Migration):
    """Before any table, since two indexes of the catalog use its operator class."""

    initial = True

    dependencies = []

    operations = [TrigramExtension()]
