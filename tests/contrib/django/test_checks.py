from __future__ import annotations

import sys
import textwrap

import pytest

from tests.contrib.django.project import MODELS, Project

NO_HANDLER = """
    LOGGING["handlers"] = {"console": {"class": "logging.StreamHandler"}}
    LOGGING["root"]["handlers"] = ["console"]
"""


def test_a_right_configuration_has_no_finding(project: Project) -> None:
    """The configuration the documentation shows passes all checks, those of the database too."""
    result = project.manage("check", "--database", "default", "--database", "joblog", "--fail-level", "INFO")
    assert result.stderr == ""
    assert "no issues" in result.stdout


@pytest.mark.parametrize(
    "settings", ["del LOGGING['disable_existing_loggers']", "LOGGING['disable_existing_loggers'] = True"]
)
def test_w001_loggers_that_are_disabled(bare_project: Project, settings: str) -> None:
    """LOGGING that disables existing loggers is found, also where it does so by leaving the key out."""
    bare_project.settings(settings)
    result = bare_project.manage("check")
    assert "(joblog_router.W001)" in result.stderr
    assert "HINT: Add 'disable_existing_loggers': False to LOGGING." in result.stderr


@pytest.mark.parametrize("settings", ["LOGGING = {}", "LOGGING_CONFIG = None\nLOGGING = {'version': 1}"])
def test_w001_is_about_a_logging_that_is_used(bare_project: Project, settings: str) -> None:
    """An empty LOGGING, or one that Django does not apply, disables nothing."""
    bare_project.settings(settings)
    assert "W001" not in bare_project.manage("check").stderr


@pytest.mark.parametrize(
    "settings",
    [
        "del DATABASES['joblog']",
        "JOBLOG_ROUTER['DATABASE'] = 'default'",
        "DATABASES['joblog']['NAME'] = str(DATABASES['default']['NAME'])",
        "DATABASES['joblog']['NAME'] = BASE_DIR / 'shop' / '..' / 'project.sqlite3'",
        "LOGGING['handlers']['job']['options'] = {'database': 'default'}",
    ],
)
def test_w002_a_file_that_is_shared(bare_project: Project, settings: str) -> None:
    """The default SQLite database, or the same file under another alias or path, is found, with the way out."""
    bare_project.settings(settings)
    result = bare_project.manage("check")
    assert "(joblog_router.W002)" in result.stderr
    assert "sqlite_alias(BASE_DIR / 'joblog.sqlite3')" in result.stderr
    assert "DATABASE_ROUTERS = ['joblog_router.contrib.django.db.JobLogRouter']" in result.stderr
    assert "manage.py migrate --database joblog" in result.stderr
    first, _, then = result.stderr.partition("After that, ")
    assert "HINT: First, with the settings as they are now, run: manage.py migrate " in first
    assert " joblog_router zero " in first
    assert "sqlite_alias(" in then


def test_w002_is_about_files_that_are_written(bare_project: Project) -> None:
    """Where no handler writes to the database, or the database is no SQLite file, nothing is shared."""
    bare_project.settings(
        """
        del DATABASES["joblog"]
        LOGGING["handlers"]["job"] = {"class": "joblog_router.JobLogHandler", "sink": "memory"}
        """
    )
    assert bare_project.manage("check").stderr == ""
    bare_project.settings("DATABASES = {'default': {'ENGINE': 'django.db.backends.dummy', 'NAME': 'x'}}")
    assert "W002" not in bare_project.manage("check").stderr


def test_e002_an_alias_that_does_not_exist(bare_project: Project) -> None:
    """An alias that is not in DATABASES is an error that suggests the one that was meant."""
    bare_project.settings("JOBLOG_ROUTER['DATABASE'] = 'joblogs'")
    result = bare_project.manage("check", status=1)
    assert "(joblog_router.E002)" in result.stderr
    assert "HINT: Did you mean 'joblog'? Add DATABASES['joblogs']" in result.stderr


def test_e002_an_alias_of_the_handler_that_does_not_exist(bare_project: Project) -> None:
    """The handler's option is checked too."""
    bare_project.settings("LOGGING['handlers']['job']['options'] = {'database': 'nowhere'}")
    assert "(joblog_router.E002)" in bare_project.manage("check", status=1).stderr


def test_w003_a_missing_table(bare_project: Project) -> None:
    """`check --database` finds that the table is missing and has the command; plain `check` asks no database."""
    result = bare_project.manage("check", "--database", "joblog")
    assert "(joblog_router.W003)" in result.stderr
    assert "is missing in the database 'joblog': lines wait in the spool." in result.stderr
    assert "HINT: Run: manage.py migrate --database joblog" in result.stderr
    assert "W003" not in bare_project.manage("check").stderr
    assert "W003" not in bare_project.manage("check", "--database", "default").stderr


def test_w003_does_not_speak_while_the_table_is_being_made(bare_project: Project) -> None:
    """`migrate` runs the checks first and says nothing about what it is about to do."""
    assert bare_project.manage("migrate", "--database", "joblog").stderr == ""
    assert "W003" not in bare_project.manage("check", "--database", "joblog").stderr


@pytest.mark.parametrize(
    "settings",
    [
        "DATABASE_ROUTERS = []",
        """
        class Everything:
            def db_for_write(self, model, **hints):
                return "default"
        DATABASE_ROUTERS = [Everything(), *DATABASE_ROUTERS]
        """,
    ],
)
def test_w004_a_model_that_is_routed_elsewhere(bare_project: Project, settings: str) -> None:
    """An alias of the log's own without the router, or with another router before it, is found."""
    bare_project.settings(settings)
    result = bare_project.manage("check")
    assert "(joblog_router.W004)" in result.stderr
    assert "HINT: Put 'joblog_router.contrib.django.db.JobLogRouter' first in DATABASE_ROUTERS" in result.stderr


def test_w004_accepts_a_router_of_the_projects_own(bare_project: Project) -> None:
    """What counts is where the model goes, not which class sends it there."""
    bare_project.settings(
        """
        class Own:
            def db_for_write(self, model, **hints):
                return "joblog" if model._meta.app_label == "joblog_router" else None
        DATABASE_ROUTERS = [Own()]
        """
    )
    assert bare_project.manage("check").stderr == ""


def test_w005_a_handler_that_nobody_has(bare_project: Project) -> None:
    """A job handler that is defined and attached to no logger is found."""
    bare_project.settings("LOGGING['root']['handlers'] = []")
    result = bare_project.manage("check")
    assert result.stderr.count("(joblog_router.W") == result.stderr.count("(joblog_router.W005)") == 1
    assert "LOGGING['root']['handlers'] = [..., 'job']" in result.stderr


@pytest.mark.parametrize(
    "handler",
    [
        {"class": "logging.handlers.MemoryHandler", "capacity": 100, "target": "job"},
        {"class": "logging.handlers.QueueHandler", "handlers": ["job"]},
    ][: 1 + (sys.version_info >= (3, 12))],  # which is when LOGGING came to know queues
)
def test_w005_is_not_about_a_handler_behind_a_buffer(bare_project: Project, handler: dict[str, object]) -> None:
    """Lines get to the job handler by way of another one that the root logger has."""
    bare_project.settings(
        f"""
        LOGGING["handlers"]["buffer"] = {handler!r}
        LOGGING["root"]["handlers"] = ["buffer"]
        """
    )
    assert bare_project.manage("check").stderr == ""


@pytest.mark.parametrize(
    ("propagate", "handlers", "is_found"), [(False, [], True), (True, [], False), (False, ["job"], False)]
)
def test_w006_a_logger_that_keeps_its_lines(
    bare_project: Project, propagate: bool, handlers: list[str], is_found: bool
) -> None:
    """A logger with propagate False and without the handler is found; Django's own are left alone."""
    bare_project.settings(
        f"""
        LOGGING["loggers"] = {{
            "shop": {{"propagate": {propagate}, "handlers": {handlers}}},
            "django": {{"propagate": False}},
        }}
        """
    )
    result = bare_project.manage("check")
    assert ("(joblog_router.W006)" in result.stderr) is is_found
    assert "'django'" not in result.stderr
    assert not is_found or "LOGGING['loggers']['shop']['handlers']" in result.stderr


def test_w016_a_logger_that_code_keeps_apart(bare_project: Project) -> None:
    """Found where it is the project's own or below one that LOGGING names; what packages do with theirs is not."""
    bare_project.settings('LOGGING["loggers"] = {"ledger": {"level": "INFO"}}')
    (bare_project.root / "shop" / "models.py").write_text(
        MODELS
        + """
import logging

for name in ("shop.slow", "ledger.books", "parcels.client", "uvicorn.access", "django.server"):
    logger = logging.getLogger(name)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
logging.getLogger("shop.fast").addHandler(logging.StreamHandler())
"""
    )
    found = bare_project.manage("check").stderr
    assert found.count("(joblog_router.W016)") == 2
    assert "The logger 'shop.slow' has propagate=False and no job handler" in found
    assert "The logger 'ledger.books' has propagate=False" in found
    assert "HINT: Code does that, not LOGGING. Let it propagate, or add the job handler to it." in found
    bare_project.settings('LOGGING["loggers"] = {"shop.slow": {"propagate": False, "handlers": []}}')
    found = bare_project.manage("check").stderr
    assert ("W006" in found, "W016" in found) == (True, False)


def test_w013_a_handler_on_a_logger_of_nobody(bare_project: Project) -> None:
    """A handler that is not on root but on loggers whose names no code has is found; names of code are fine."""
    of_code = [
        "shop",
        "shop.work",
        "joblog_router.contrib",
        "textwrap",
    ]  # app, below, around one, a module that is none
    bare_project.settings(
        f"""
        LOGGING["root"] = {{"level": "INFO"}}
        LOGGING["loggers"] = {{name: {{"handlers": ["job"]}} for name in {["shp", "survey.work", *of_code]}}}
        """
    )
    found = bare_project.manage("check").stderr
    assert found.count("(joblog_router.W013)") == 2
    assert "on the logger 'survey.work', but no installed app and no module has that name" in found
    assert "HINT: Did you mean 'shop'? Add the handler to the root logger" in found


def test_w013_is_not_about_loggers_beside_root(bare_project: Project) -> None:
    """Where root has the handler nothing is missed, whatever other loggers are called."""
    bare_project.settings("LOGGING['loggers'] = {'nowhere': {'handlers': ['job'], 'propagate': False}}")
    assert bare_project.manage("check").stderr == ""


@pytest.mark.parametrize("settings", [NO_HANDLER, "LOGGING_CONFIG = None"])
def test_w017_no_job_handler_at_all(bare_project: Project, settings: str) -> None:
    """A LOGGING without a job handler, or one that is not used, leaves every job's log empty: said, with the way."""
    bare_project.settings(settings)
    found = bare_project.manage("check").stderr
    assert "(joblog_router.W017) No handler of LOGGING is a JobLogHandler: job logs stay empty." in found
    assert "HINT: Add LOGGING['handlers']['job'] = {'class': 'joblog_router.JobLogHandler'" in found
    assert "SILENCED_SYSTEM_CHECKS = ['joblog_router.W017']" in found


def test_w017_is_not_about_handlers_that_code_makes(bare_project: Project) -> None:
    """Where the project configures logging by itself, what counts is what is there."""
    bare_project.settings("LOGGING_CONFIG = None; import logging.config; logging.config.dictConfig(LOGGING)")
    assert bare_project.manage("check").stderr == ""


BESIDE = """
    LOGGING["root"]["handlers"] = []
    LOGGING["loggers"] = {"textwrap": {"level": "INFO", "handlers": ["job"]}}
"""


def test_w018_a_handler_beside_the_projects_apps(bare_project: Project) -> None:
    """On the logger of a module that is no app, and on none from which a line of an app could come: found."""
    bare_project.settings(BESIDE)
    found = bare_project.manage("check").stderr
    assert found.count("(joblog_router.W") == 1
    assert "(joblog_router.W018) The job handler 'job' is on the logger 'textwrap': what the project's apps" in found
    assert "('shop') log reaches no job's log." in found
    assert "LOGGING['root']['handlers'] = [..., 'job'], or to the logger of an app: LOGGING['loggers']['shop']" in found
    bare_project.settings(BESIDE + "    SILENCED_SYSTEM_CHECKS = ['joblog_router.W018']")
    assert bare_project.manage("check").stderr == ""


@pytest.mark.parametrize(
    "settings",
    [
        "INSTALLED_APPS += ['parcels']; LOGGING['loggers']['shop.work'] = {'handlers': ['job']}",
        "import joblog_router as j, logging; logging.getLogger('shop').addHandler(j.JobLogHandler(sink='memory'))",
        "INSTALLED_APPS.remove('shop')",
    ],
)
def test_w018_is_not_about_what_is_wanted(bare_project: Project, settings: str) -> None:
    """One app of two is enough, code may put the handler elsewhere, and a project without apps is not known."""
    (bare_project.root / "parcels").mkdir()
    (bare_project.root / "parcels" / "__init__.py").touch()
    bare_project.settings(f"{BESIDE}    {settings}")
    assert "W018" not in bare_project.manage("check").stderr


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ("LOGGING['root'] = {'handlers': ['job']}", "LOGGING['root']['level']"),
        (
            "LOGGING['root'] = {}; LOGGING['loggers'] = {'shop': {'handlers': ['job']}}",
            "LOGGING['loggers']['shop']['level']",
        ),
        ("LOGGING['root'] = {'handlers': ['job'], 'level': 'WARNING'}", ""),  # somebody wants it
        ("LOGGING['root'] = {'handlers': ['job']}; LOGGING['handlers']['job']['level'] = 'ERROR'", ""),
        ("LOGGING['root'] = {'handlers': ['job']}; LOGGING['loggers'] = {'shop': {'level': 'DEBUG'}}", ""),
        ("LOGGING['root'] = {'level': 'INFO'}; LOGGING['loggers'] = {'shop': {'handlers': ['job']}}", ""),
    ],
)
def test_w014_a_logger_without_a_level(bare_project: Project, settings: str, place: str) -> None:
    """Root is at WARNING where nobody says otherwise, and so are the loggers below: INFO would be missed."""
    bare_project.settings(settings)
    found = bare_project.manage("check").stderr
    assert ("(joblog_router.W014)" in found) is bool(place)
    assert not place or f"HINT: Set {place} = 'INFO'." in found


def test_w007_an_alias_with_nearly_the_right_name(bare_project: Project) -> None:
    """A mistyped alias is named together with the one that is looked for."""
    bare_project.settings("DATABASES['joblogs'] = DATABASES.pop('joblog')")
    result = bare_project.manage("check")
    assert "(joblog_router.W007)" in result.stderr
    assert "Rename the alias 'joblogs' to 'joblog'" in result.stderr


WEB = """
    ROOT_URLCONF = "shop.urls"
    INSTALLED_APPS += ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
    INSTALLED_APPS += ["django.contrib.staticfiles"]
    STATIC_URL = "static/"
    MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
    TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
"""
URLS = """
from django.urls import include, path
urlpatterns = [path("jobs/", include("joblog_router.contrib.django.urls"))]
"""


def web(project: Project, more: str = "", urls: str = URLS) -> None:
    """Settings of a project that shows job logs in the browser."""
    (project.root / "shop" / "urls.py").write_text(urls)
    project.settings(WEB + "".join(f"    {line}\n" for line in more.splitlines()))


def test_a_right_web_configuration_has_no_finding(bare_project: Project) -> None:
    """What the documentation shows passes."""
    web(bare_project)
    assert bare_project.manage("check").stderr == ""


def test_w008_a_switch_that_is_off(bare_project: Project) -> None:
    """ENABLED False is found: the one who wonders why logs are empty looks here."""
    bare_project.settings(NO_HANDLER + "    JOBLOG_ROUTER['ENABLED'] = False")
    found = bare_project.manage("check").stderr
    assert "(joblog_router.W008) JOBLOG_ROUTER['ENABLED'] is False" in found
    assert "W017" not in found  # nobody misses it where all is off


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("'shop.nowhere.ask'", "'shop.nowhere.ask' cannot be imported"),
        ("'shop.models.models'", "must be a function or its dotted path"),
        ("lambda request: True", "cannot be called as it will be: missing a required argument: 'request'"),
    ],
)
def test_e003_a_switch_that_cannot_be_asked(bare_project: Project, settings: str, words: str) -> None:
    """ENABLED names a function that is not there or takes other parameters."""
    bare_project.settings(f"JOBLOG_ROUTER['ENABLED'] = {settings}")
    found = bare_project.manage("check", status=1).stderr
    assert "(joblog_router.E003)" in found
    assert words in found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("'shop.permissions.may_see'", "'shop.permissions.may_see' cannot be imported"),
        ("'shop.urls.urlpatterns'", "must be a function or its dotted path"),
        ("lambda request: True", "cannot be called as it will be: too many positional arguments"),
        ("rule", "is a coroutine function: nobody awaits it"),
    ],
)
def test_e004_a_rule_that_cannot_be_asked(bare_project: Project, settings: str, words: str) -> None:
    """PERMISSION names a function that is not there, takes other parameters or is a coroutine function."""
    web(bare_project, f"async def rule(request, job_id): return True\nJOBLOG_ROUTER['PERMISSION'] = {settings}")
    found = bare_project.manage("check", status=1).stderr
    assert "(joblog_router.E004)" in found
    assert words in found


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ("MIDDLEWARE = []", "W009"),
        ("TEMPLATES = []", "W010"),
        ("TEMPLATES[0]['APP_DIRS'] = False", "W010"),
        ("STATIC_URL = None", "W011"),
        ("INSTALLED_APPS.remove('django.contrib.staticfiles')", "W011"),
    ],
)
def test_what_keeps_the_page_from_being_seen_is_found(bare_project: Project, settings: str, number: str) -> None:
    """No users, no template engine, no static files; only where the project includes our URLs."""
    web(bare_project, settings)
    assert f"(joblog_router.{number})" in bare_project.manage("check").stderr
    web(bare_project, settings, "urlpatterns = []")
    assert "joblog_router." not in bare_project.manage("check").stderr


def test_w009_a_rule_of_the_projects_own_needs_no_users(bare_project: Project) -> None:
    """With PERMISSION the project may know its readers in another way."""
    web(bare_project, "MIDDLEWARE = []\nJOBLOG_ROUTER['PERMISSION'] = lambda request, job_id: True")
    assert bare_project.manage("check").stderr == ""


def test_w012_urls_under_another_name(bare_project: Project) -> None:
    """Included inside another namespace the names are others than links use; elsewhere in the tree they are not."""
    inside = """
        from django.urls import include, path
        ours = [path("logs/", include("joblog_router.contrib.django.urls"))]
        urlpatterns = [path("shop/", include({}))]
        """
    web(bare_project, urls=textwrap.dedent(inside.format("(ours, 'shop')")))
    assert "included with the namespace 'shop:joblog'" in bare_project.manage("check").stderr
    web(bare_project, urls=textwrap.dedent(inside.format("ours")))
    assert bare_project.manage("check").stderr == ""


def test_e005_nothing_to_read(bare_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is none is found before the first reader is told."""
    web(bare_project)
    monkeypatch.setenv("JOBLOG_STORE", "callable")
    found = bare_project.manage("check", status=1).stderr
    assert "(joblog_router.E005) The pages of job logs have nothing to read: JOBLOG_STORE ('callable')" in found


def test_e006_a_header_that_cannot_be_asked(bare_project: Project) -> None:
    """HEADER names a function that is not there."""
    web(bare_project, "JOBLOG_ROUTER['HEADER'] = 'shop.header.of'")
    assert "(joblog_router.E006)" in bare_project.manage("check", status=1).stderr


def test_w015_a_permission_that_is_not_there(bare_project: Project) -> None:
    """With the log's own database alone migrated nobody can be given the permission; plain `migrate` makes it."""
    web(bare_project)
    bare_project.manage("migrate", "--database", "joblog", "--verbosity=0")
    check = ("check", "--database", "default", "--database", "joblog")
    found = bare_project.manage(*check).stderr
    assert "(joblog_router.W015) The permission 'joblog_router.view_joblogentry' is not in the database 'de" in found
    assert "HINT: Run: manage.py migrate (" in found
    assert bare_project.manage("check", "--database", "joblog").stderr == ""
    bare_project.manage("migrate", "--verbosity=0")
    assert bare_project.manage(*check).stderr == ""


@pytest.mark.parametrize(
    ("settings", "urls"),
    [("", "urlpatterns = []"), ("JOBLOG_ROUTER['PERMISSION'] = lambda request, job_id: True", URLS)],
)
def test_w015_is_about_pages_by_permission(bare_project: Project, settings: str, urls: str) -> None:
    """Without the URLs, or with a rule of the project's own, no permission is needed."""
    web(bare_project, settings, urls)
    assert "W015" not in bare_project.manage("check", "--database", "default").stderr


def test_w020_a_spool_that_cannot_be_used(bare_project: Project) -> None:
    """Lines would not survive a killed process: said with the place and why; and not where there is none on purpose."""
    (bare_project.root / "spool").write_text("no folder")
    bare_project.settings("JOBLOG_ROUTER['SPOOL'] = BASE_DIR / 'spool'")
    result = bare_project.manage("check")
    assert "(joblog_router.W020) The spool of the job logs, " in result.stderr
    assert "cannot be used: Not a directory" in result.stderr
    assert "HINT: Set JOBLOG_ROUTER['SPOOL'] to a directory of the user that runs the project" in result.stderr
    bare_project.settings("JOBLOG_ROUTER['SPOOL'] = None")
    assert bare_project.manage("check").stderr == ""


def test_i020_a_spool_in_the_temporary_directory(bare_project: Project) -> None:
    """Where it is going to production: a container that is replaced loses it."""
    result = bare_project.manage("check", "--deploy", "--tag", "security")
    assert "joblog_router.I020" not in result.stderr
    result = bare_project.manage("check", "--deploy")
    assert "(joblog_router.I020) Job log lines that are not stored yet are in " in result.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"PATIENCE": "x"}, ["JOBLOG_ROUTER['DOCTOR']['PATIENCE'] must be a number of seconds, not 'x'"]),
        ({"CELERI": {}}, ["JOBLOG_ROUTER['DOCTOR'] has no key 'CELERI'. Did you mean 'CELERY'?"]),
        (
            {"JOB": {"model": "shop.Job", "fields": {"total": "totl"}}, "REDIS": {"keys": {"total": "{job_id}"}}},
            ["DOCTOR['JOB']['fields']['total']: shop.Job has no field 'totl'", "DOCTOR['REDIS'] needs the key 'url'"],
        ),
    ],
)
def test_w021_what_the_doctor_cannot_use(bare_project: Project, given: dict[str, object], words: list[str]) -> None:
    """Each mistake is told before the doctor is needed; it keeps no command from running."""
    bare_project.settings(f"JOBLOG_ROUTER['DOCTOR'] = {given!r}")
    result = bare_project.manage("check")
    assert result.stderr.count("(joblog_router.W021) The doctor cannot be asked: ") == len(words)
    for one in words:
        assert one in result.stderr
    assert "HINT: Correct JOBLOG_ROUTER['DOCTOR']." in result.stderr
