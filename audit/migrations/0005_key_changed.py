from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0004_services_and_ip_addresses"),
    ]

    operations = [
        migrations.AlterField(
            model_name="event",
            name="action",
            field=models.CharField(
                choices=[
                    ("key.issued", "key generated, and shown this once"),
                    ("key.rolled", "key replaced"),
                    ("key.changed", "key changed"),
                    ("key.revoked", "key revoked"),
                    ("key.suspended", "key suspended"),
                    ("key.restored", "key works again"),
                    ("key.leaked", "key found where others can read it"),
                    ("key.new_network", "key used from a new network"),
                    ("key.refused", "key refused"),
                    ("account.made", "account made"),
                    ("account.signed_in", "signed in"),
                    ("account.refused", "sign-in refused"),
                    ("account.signed_out", "signed out"),
                    ("account.password", "password changed"),
                    ("account.address", "email address changed"),
                    ("account.factor_added", "second factor added"),
                    ("account.factor_removed", "second factor removed"),
                    ("account.login_added", "login connected"),
                    ("account.login_removed", "login disconnected"),
                    ("account.disabled", "account disabled"),
                    ("account.enabled", "account enabled"),
                    ("account.deleted", "account deleted by its owner"),
                    ("staff.viewed", "looked at by staff"),
                    ("staff.changed", "changed by staff"),
                    ("staff.looked_up", "key looked up by staff"),
                    ("staff.refused", "page refused to staff"),
                    ("staff.exported", "trail exported by staff"),
                    ("service.used", "service asked about keys"),
                    ("service.refused", "service refused"),
                ],
                max_length=32,
                verbose_name="what",
            ),
        ),
    ]
