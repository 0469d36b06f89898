"""What other apps and views can do with accounts: look up, log in, notify, disable, delete.

Views, forms and the admin contain no rules of their own and call these functions.
"""

from accounts.services.lifecycle import (
    LastAdministrator,
    StaffAccountProtected,
    delete_account,
    disable,
    enable,
    make_staff,
    may_delete_account,
)
from accounts.services.login_methods import (
    end_sessions,
    has_other_login_method,
    has_verified_email,
    make_password_unusable,
    may_hold_keys,
    remove_factors,
    remove_login_methods,
    replace_email,
    verify_email,
)
from accounts.services.lookup import (
    display_name,
    find_by_email,
    is_last_administrator,
    may_act_on,
)
from accounts.services.notices import notify
from accounts.services.personal_data import account_deleting, exporting_data, personal_data

__all__ = [
    "LastAdministrator",
    "StaffAccountProtected",
    "account_deleting",
    "delete_account",
    "disable",
    "display_name",
    "enable",
    "end_sessions",
    "exporting_data",
    "find_by_email",
    "has_other_login_method",
    "has_verified_email",
    "is_last_administrator",
    "make_password_unusable",
    "make_staff",
    "may_act_on",
    "may_delete_account",
    "may_hold_keys",
    "notify",
    "personal_data",
    "remove_factors",
    "remove_login_methods",
    "replace_email",
    "verify_email",
]
