"""Django's settings: everything that differs between deployments is an environment variable.

Without any variable this is the embedded platform of `make run`: SQLite, generated secrets in
`var/`, mail printed in the terminal. With PRODUCTION=1 missing variables are reported instead, all
in one report. docs/settings.md lists the variables.
"""

from config.settings.accounts import *
from config.settings.api_keys import *
from config.settings.appearance import *
from config.settings.apps import *
from config.settings.base import *
from config.settings.base import VAR, env
from config.settings.browsers import *
from config.settings.caches import *
from config.settings.database import *
from config.settings.log import *
from config.settings.mail import *
from config.settings.metrics import *
from config.settings.network import *
from config.settings.providers import *
from config.settings.remote_tls import *
from config.settings.rest import *
from config.settings.retention import *
from config.settings.secret_keys import *
from config.settings.static_files import *
from config.settings.traces import *
from config.settings.uploads import *
from config.settings.validation_cache import *

env.report_errors()

# Former names of variables that the environment still uses, and their new ones. `manage.py serve`
# logs them.
RENAMED_VARIABLES: dict[str, str] = env.renamed

# For commands as well as for the server.
try:
    VAR.mkdir(mode=0o700, parents=True, exist_ok=True)
except OSError as _error:
    raise SystemExit(f"VAR_DIR {VAR} can't be made: {_error.strerror}.") from None
