"""The recipes for clusters are well-formed, and the commands in them exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
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
    assert "#SBATCH --exclusive" in script  # symmetric-run stops all Ray processes in the end


def test_slurms_and_skypilots_recipes_name_their_ray_cluster() -> None:
    """Another Ray may be on the same machine: SkyPilot's own, or that of another job. In a pod there is one."""
    found = scripts()
    assert all('--cluster "$head:6379"' in found[name] for name in ("slurm", "skypilot run"))
    assert "--cluster auto" in found["rayjob"]


def test_slurm_itself_takes_its_recipe() -> None:
    """Where there is a controller with two nodes of 8 GPUs and 64 processors; these may be invented."""
    if not shutil.which("sbatch") or subprocess.run(["scontrol", "ping"], capture_output=True).returncode:
        pytest.skip("there is no Slurm controller here")
    taken = subprocess.run(["sbatch", "--test-only", FOLDER / "slurm.sbatch"], capture_output=True, text=True)
    assert taken.returncode == 0 and "using 128 processors" in taken.stderr, taken.stderr


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


def test_what_has_to_stay_is_in_the_volume_that_all_nodes_see() -> None:
    job, sky = read("rayjob.yaml")["spec"], read("skypilot.yaml")
    pods = [group["template"]["spec"] for group in
            (job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"])]  # fmt: skip
    for pod in pods:
        (container,) = pod["containers"]
        (mount,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared"]
        kept = [of["value"] for of in container["env"] if of["name"] in ("HF_HOME", "XDG_CACHE_HOME")]
        kept += re.findall(r"--run (\S+)", job["entrypoint"])
        assert len(kept) == 3 and all(Path(path).is_relative_to(mount) for path in kept)
    (mount,) = sky["volumes"]
    kept = [sky["envs"]["HF_HOME"], sky["envs"]["XDG_CACHE_HOME"]]
    kept += re.findall(r"--run (\S+)|RAY_AUTH_TOKEN_PATH=(/\S+)", sky["run"])[0][1:]
    kept += re.findall(r"--run (\S+)", sky["run"])
    assert len(kept) == 4 and all(Path(path).is_relative_to(mount) for path in kept)


def test_kuberays_own_schema_takes_the_rayjob() -> None:
    """KUBERAY_CRD is a file ray.io_rayjobs.yaml of KubeRay."""
    if not (file := os.environ.get("KUBERAY_CRD")):
        pytest.skip("KUBERAY_CRD does not name KubeRay's ray.io_rayjobs.yaml")
    definition = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    (schema,) = [of["schema"]["openAPIV3Schema"] for of in definition["spec"]["versions"] if of["name"] == "v1"]
    job = read("rayjob.yaml")
    jsonschema.Draft7Validator(closed(schema)).validate(job)
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.Draft7Validator(closed(schema)).validate(job)


def closed(schema: Any) -> Any:
    """Without fields that it does not name, which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [closed(of) for of in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        free = schema.get("x-kubernetes-preserve-unknown-fields") or schema["properties"].keys() == {"metadata"}
        made.setdefault("additionalProperties", bool(free))
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def test_skypilots_own_loader_takes_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # it writes there as soon as it is imported
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install 'skypilot[kubernetes]'")
    recipe = {**read("skypilot.yaml"), "workdir": str(tmp_path)}
    task = sky.Task.from_yaml_config(recipe)
    assert task.num_nodes == 2 and list(task.volumes) == ["/nfs"]
    with pytest.raises(Exception, match="num_node"):
        sky.Task.from_yaml_config({**recipe, "num_node": 2})
