"""The content of an installed package: every folder of the package, and the recipes."""

import configparser
import importlib
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


def test_every_data_file_of_the_package_is_installed():
    data = SETUP["options.package_data"]
    installed = {
        path
        for folder in data
        for pattern in data[folder].split(", ")
        for path in (ROOT / folder.replace(".", "/")).glob(pattern)
    }
    files = {path for path in (ROOT / "slowfast_mvit").rglob("*") if path.is_file()}

    assert installed >= {
        path for path in files if path.suffix != ".py" and path.parent.name != "__pycache__"
    }


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


PUBLIC = {
    "load_config",
    "build_model",
    "create_model",
    "from_pretrained",
    "load_weights",
    "predict",
}
PUBLIC |= {"list_models", "accelerate"}


def test_public_names_are_functions_whatever_was_imported_before():
    for name in ("predict", "train", "test"):
        importlib.import_module(f"slowfast_mvit.jobs.{name}")  # imports every folder below

    assert set(dir(slowfast_mvit)) > PUBLIC
    assert issubclass(slowfast_mvit.errors.ConfigError, ValueError)
    for name in PUBLIC:
        assert callable(getattr(slowfast_mvit, name)), name
