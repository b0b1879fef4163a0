"""What ``pip install`` brings: every folder of the package, and the recipes."""

import configparser
from pathlib import Path

import slowfast_mvit

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")


def listed(section: str, option: str) -> list[str]:
    return SETUP[section][option].strip().splitlines()


def test_every_folder_of_the_package_is_installed():
    folders = {path.parent for path in (ROOT / "slowfast_mvit").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}

    assert set(listed("options", "packages")) == names | {"slowfast_mvit.configs"}


def test_every_recipe_is_installed():
    patterns = SETUP["options.package_data"]["slowfast_mvit.configs"].split(", ")
    installed = {path for pattern in patterns for path in (ROOT / "configs").glob(pattern)}

    assert installed == set((ROOT / "configs").rglob("*.yaml")) != set()


def test_the_versions_tested_together_cover_every_requirement():
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    required = {name.split(">")[0] for name in listed("options", "install_requires")}

    assert required <= pinned


def test_public_names_are_there():
    assert {"load_config", "build_model", "create_model", "list_models"} <= set(dir(slowfast_mvit))
    assert slowfast_mvit.errors.ConfigError.__mro__[2] is ValueError
    for name in slowfast_mvit.__all__:
        assert getattr(slowfast_mvit, name) is not None
