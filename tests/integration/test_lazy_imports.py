"""What a start leaves out, for speed and memory, is there when it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from buildbot.db.model import Model

from litebot.master.db import schema
from support.master import Master


def run(code: str) -> str:
    """What code prints in a new interpreter."""
    command = [sys.executable, "-c", f"import sys\n{code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", ["alembic.runtime", "sqlalchemy.dialects.postgresql"])
def test_a_master_does_not_import_it(name: str) -> None:
    assert run(f"import litebot.master.service; print({name!r} in sys.modules)") == "False"


def test_buildbots_model_has_all_of_it_at_the_first_use() -> None:
    code = """
import litebot.master.db.schema
from buildbot.db import model
scripts = model.Model.alembic_get_scripts(model.Model)
print(scripts.get_current_head(), model.alembic.operations.Operations.__name__)
import alembic
print(alembic.__file__ == sys.modules["alembic"].__file__)
"""
    assert run(code) == f"{schema.buildbots_revisions()[-1]} Operations\nTrue"


@pytest.mark.parametrize(
    "code",
    [
        "import alembic.runtime.migration; found = alembic.runtime.migration.MigrationContext",
        "from alembic.operations import ops; import alembic; found = alembic.operations.ops",
        "from alembic import script as found",
        "from importlib.util import find_spec; found = find_spec('alembic').loader",
        "import inspect; inspect.stack(); found = None; assert 'alembic' not in sys.modules",
    ],
)
def test_others_import_it_as_ever(code: str) -> None:
    use = "model.Model.alembic_get_scripts(model.Model).get_current_head()"
    printed = run(f"from litebot.master.db.schema import model\n{code}\nprint({use})")
    assert printed == schema.buildbots_revisions()[-1]


def test_one_that_was_imported_before_is_used() -> None:
    use = "from litebot.master.db.schema import model; print(model.alembic is alembic)"
    assert run(f"import alembic; {use}; model.alembic.config.Config()") == "True"


def test_revisions_are_those_that_alembic_finds() -> None:
    scripts = ScriptDirectory.from_config(Config(Model.config_path))
    assert [each.revision for each in scripts.walk_revisions()][::-1] == [
        *schema.buildbots_revisions()
    ]


def test_garbage_is_collected_once_all_is_imported(master: Master) -> None:
    state = "gc.isenabled(), gc.get_freeze_count() > 100_000"
    master.configure(f"import gc; print('enabled:', {state})")
    master.start()
    assert "enabled: True True" in master.log
