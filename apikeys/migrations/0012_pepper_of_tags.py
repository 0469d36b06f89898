"""A key's row says which pepper the tag in its token was made with.

NULL in the rows that exist: their hash names a pepper, but hashes move to the current one and tags
do not, so nothing in a row says what its tag needs. It is learned when the key is used again.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("apikeys", "0011_expired_keys_give_up_their_names")]
    operations = [
        migrations.AddField(
            model_name="apikey",
            name="tag_pepper",
            field=models.CharField(editable=False, max_length=8, null=True),
        ),
    ]
