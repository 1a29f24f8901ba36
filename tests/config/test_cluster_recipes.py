"""The recipes for clusters are well-formed, and the commands in them exist."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from icr.config.schema import CONFIGS
from tests.commands.test_docs import parse

FOLDER = CONFIGS / "cluster"


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def scripts() -> dict[str, str]:
    """Every piece of shell in the recipes."""
    sky = read("skypilot.yaml")
    return {
        "slurm": (FOLDER / "slurm.sbatch").read_text(encoding="utf-8"),
        "rayjob": read("rayjob.yaml")["spec"]["entrypoint"],
        "skypilot setup": sky["setup"],
        "skypilot run": sky["run"],
    }


@pytest.mark.parametrize("script", scripts().values(), ids=scripts())
def test_shell_is_well_formed_and_its_icr_commands_exist(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for command in re.findall(r"^\s*(icr [a-z].*)$", script, re.MULTILINE):
        parse(command)


def test_every_recipe_runs_icr_on_the_cluster() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"slurm.sbatch", "rayjob.yaml", "skypilot.yaml"}
    found = scripts()
    for name in ("slurm", "rayjob", "skypilot run"):
        assert re.search(r"icr iterate --config \S+ --run \S+ --cluster ", found[name]), name


def test_slurm_asks_for_what_its_steps_need() -> None:
    script = scripts()["slurm"]
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, re.MULTILINE))
    assert asked["ntasks-per-node"] == "1" and int(asked["cpus-per-task"]) > int(asked["gpus-per-node"])
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in script  # srun does not have it from sbatch


def test_the_rayjob_is_of_one_version_of_ray_and_has_one_volume() -> None:
    job = read("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert f'"ray=={cluster["rayVersion"]}"' in (CONFIGS.parent / "pyproject.toml").read_text()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) > 0
