"""The tables of accounts, as one migration. A database that has some of the replaced ones runs those."""

import uuid

import django.db.models.functions.text
import django.utils.timezone
from django.db import migrations, models

import core.db_lookups


class Migration(migrations.Migration):
    initial = True
    replaces = [
        ("accounts", "0001_initial"),
        ("accounts", "0002_language_and_notices"),
        ("accounts", "0003_find_by_index"),
        ("accounts", "0004_what_staff_may_do"),
        ("accounts", "0005_browser_language"),
        ("accounts", "0006_session_digests"),
        ("accounts", "0007_updated_at_of_what_clients_see"),
    ]

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="User",
            fields=[
                ("password", models.CharField(max_length=128, verbose_name="password")),
                (
                    "last_login",
                    models.DateTimeField(blank=True, null=True, verbose_name="last login"),
                ),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "email",
                    models.EmailField(
                        error_messages={
                            "unique": "An account with this email address exists already."
                        },
                        max_length=254,
                        unique=True,
                        verbose_name="email address",
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        blank=True,
                        help_text="How ComfyUI and this site greet you.",
                        max_length=80,
                        verbose_name="name",
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="Untick instead of deleting: sign-in and every key stop working at once.",
                        verbose_name="active",
                    ),
                ),
                (
                    "is_staff",
                    models.BooleanField(
                        default=False, help_text="May open the staff pages.", verbose_name="staff"
                    ),
                ),
                (
                    "language",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("en", "English"),
                            ("zh-hans", "简体中文"),
                            ("zh-hant", "繁體中文"),
                            ("ja", "日本語"),
                            ("ko", "한국어"),
                        ],
                        help_text="Of these pages, and of the mails that you get.",
                        max_length=16,
                        verbose_name="language",
                    ),
                ),
                (
                    "browser_language",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        editable=False,
                        max_length=16,
                        verbose_name="language of the browser",
                    ),
                ),
                (
                    "notices",
                    models.CharField(
                        choices=[
                            ("all", "Everything that happens to my keys"),
                            ("security", "Only what concerns my account's safety"),
                        ],
                        default="all",
                        help_text="Of a new device, a changed password or factor, you are always told.",
                        max_length=16,
                        verbose_name="mails about my keys",
                    ),
                ),
                (
                    "date_joined",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False, verbose_name="joined"
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False, verbose_name="changed"
                    ),
                ),
                (
                    "groups",
                    models.ManyToManyField(
                        blank=True,
                        help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
                (
                    "user_permissions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Specific permissions for this user.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.permission",
                        verbose_name="user permissions",
                    ),
                ),
            ],
            options={
                "verbose_name": "account",
                "verbose_name_plural": "accounts",
                "ordering": ["email"],
                "permissions": [
                    ("disable_user", "Can disable and enable accounts"),
                    ("end_sessions", "Can log people out everywhere"),
                    ("recover_user", "Can remove people's second factors"),
                    ("manage_staff", "Can say who is staff, and in which role"),
                ],
                "indexes": [
                    models.Index(fields=["date_joined"], name="accounts_user_joined"),
                    models.Index(
                        condition=models.Q(("is_active", False)),
                        fields=["email"],
                        name="accounts_user_disabled",
                    ),
                    models.Index(
                        condition=models.Q(("is_staff", True)),
                        fields=["email"],
                        name="accounts_user_staff",
                    ),
                    models.Index(
                        core.db_lookups.Caseless("name"), name="accounts_user_name_begins"
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("email", django.db.models.functions.text.Lower("email"))
                        ),
                        name="accounts_user_email_lower",
                        violation_error_message="Write the email address in lower case.",
                    )
                ],
            },
        ),
    ]
