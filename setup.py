"""Packaging of litebot."""

from pathlib import Path

from setuptools import find_packages
from setuptools import setup

HERE = Path(__file__).parent
VERSION: dict[str, str] = {}
exec((HERE / "litebot/__init__.py").read_text(encoding="utf-8"), VERSION)
# SQLAlchemy's dialect for it is of 3.x; what a newer one changes is for a run of the tests to say.
POSTGRES = "psycopg[binary]>=3.2,<3.4"

setup(
    name="litebot",
    version=VERSION["__version__"],
    description="Buildbot, ready to run, on one crash-safe SQLite file",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-2.0-only",
    license_files=["LICENSE"],
    # Twisted looks for plugins in the folder twisted/plugins of each place on sys.path.
    packages=[*find_packages(include=["litebot", "litebot.*"]), "twisted.plugins"],
    package_data={
        "litebot": ["template/**", "template/project/**", "py.typed"],
        "litebot.master.projects.web": ["templates/projects/*"],
        "litebot.master.pages": ["templates/*", "plugin/VERSION", "plugin/static/*"],
    },
    python_requires=">=3.11",
    # The upper bounds are what the conformance run passes with: Buildbot warns of newer ones.
    install_requires=[
        "buildbot>=4.3.0,<4.4",
        "buildbot-worker>=4.3.0,<4.4",
        "buildbot-www>=4.3.0,<4.4",
        "buildbot-waterfall-view>=4.3.0,<4.4",
        "buildbot-console-view>=4.3.0,<4.4",
        "buildbot-grid-view>=4.3.0,<4.4",
        "twisted>=24.7",
        "apsw>=3.51.3",
        "SQLAlchemy>=2.0.36,<2.1",
        "alembic>=1.13,<1.16",
        "orjson>=3.10",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "click>=8.1,<9",
        "rich>=13",
        "tomlkit>=0.12",
    ],
    extras_require={
        "postgres": [POSTGRES],
        "test": [
            POSTGRES,
            "pytest>=8",
            "pytest-rerunfailures>=16.1",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "selenium>=4.20",
            "mercurial>=6.5",
            "requests>=2.28",  # for logins by OAuth
            # What Buildbot can compress logs with, beside the standard library.
            "brotli>=1.1",
            "lz4>=4.0",
            "zstandard>=0.23",
        ],
        "dev": ["ruff>=0.6", "mypy>=1.11"],
        # 2.0 is to be incompatible.  The pages are plain Markdown: others can build them, too.
        "docs": ["mkdocs>=1.6,<1.7"],
    },
    entry_points={
        "console_scripts": ["litebot = litebot.cli.main:main"],
        "buildbot.www": ["litebot = litebot.master.pages.plugin:ep"],
        "sqlalchemy.dialects": ["sqlite.apsw = litebot.store.dialect:ApswDialect"],
    },
    classifiers=[
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Software Development :: Build Tools",
        "Topic :: Software Development :: Testing",
    ],
)
