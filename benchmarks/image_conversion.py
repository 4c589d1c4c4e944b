"""Whole images from registry to registry: cold, its stages alone, ``skopeo copy`` of the same image, and with layers known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, child, medians
from benchmarks.charts import Chart
from benchmarks.images import cpu_of, push, registry, skopeo
from benchmarks.inputs import Layer, layer
from benchmarks.markdown import goal, megabytes, seconds, table
from tests.servers.registry import RegistryServer

IMAGES = {"python": ("base", "python"), "node": ("base", "node"), "small files": ("small",)}
STAGES = ("pull", "convert", "push")
GOAL_SLOWEST = 1.3
GOAL_WARM = 1.0


def measure(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with bench.folder("images") as folder, registry(folder / "source") as source:
        for name, layers in IMAGES.items():
            made = [layer(bench, each) for each in layers]
            repository = f"{source.host}/library/{name.replace(' ', '-')}"
            push(made, f"{repository}:v1", folder)
            push(made, f"{repository}:v2", folder, author="another build of the same layers")
            runs: dict[str, list[dict[str, Any]]] = {}
            for number in range(bench.rounds):
                bench.say(f"image {name}, round {number + 1} of {bench.rounds}")
                with bench.folder(f"images/round-{number}") as own:
                    for key, run in _round(own, source, repository, made).items():
                        runs.setdefault(key, []).append(run)
            found[name] = {
                "layers": len(made),
                "tar": sum(each.tar_size for each in made),
                "gzip": sum(each.size for each in made),
                **{key: medians(each) for key, each in runs.items()},
            }
    return {"images": found}


def _round(folder: Path, source: RegistryServer, repository: str, layers: list[Layer]) -> dict[str, dict[str, Any]]:
    """Everything once; each cold copy into an empty registry of its own."""
    found: dict[str, dict[str, Any]] = {}
    with registry(folder / "copy") as target:
        found["skopeo"] = {
            "wall": skopeo(f"docker://{repository}:v1", f"docker://{target.host}/library/app:v1", folder)
        }
    with registry(folder / "converted") as target:
        before = cpu_of(source)
        found["cold"] = _converted(f"{repository}:v1", f"{target.host}/library/app:v1")
        found["cold"]["registry_cpu"] = cpu_of(source) - before + cpu_of(target)
        found["new tag"] = _converted(f"{repository}:v2", f"{target.host}/library/app:v2")
        found["other repository"] = _converted(f"{repository}:v2", f"{target.host}/library/other:v1")
    found["pull"] = child("pull", {"source": f"{repository}:v1"})
    out = [str(folder / f"{number}.esgz") for number in range(len(layers))]
    found["convert"] = child("convert", {"layers": [str(each.packed) for each in layers], "out": out})
    with registry(folder / "pushed") as target:
        found["push"] = child("push", {"layers": out, "target": f"{target.host}/library/app"})
        found["push"]["registry_cpu"] = cpu_of(target)
    return found


def _converted(source: str, target: str) -> dict[str, Any]:
    """In a new process, so that nothing is known but what the registry knows."""
    return child("images", {"jobs": [(source, target)]})


def render(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    images = data["images"]
    rows, warm = [], []
    for name, it in images.items():
        wall, slowest = it["cold"]["wall"], _slowest(it)
        total = sum(it[stage]["wall"] for stage in STAGES)
        rows.append(
            (
                name, str(it["layers"]), megabytes(it["tar"]), megabytes(it["gzip"]), seconds(wall),
                f"{it['tar'] / wall / 1e6:.1f}", *(seconds(it[stage]["wall"]) for stage in STAGES),
                f"{wall / total:.2f}", f"{wall / slowest:.2f}", seconds(it["skopeo"]["wall"]),
                f"{wall / it['skopeo']['wall']:.1f}", f"{it['cold']['cpu'] + it['cold']['registry_cpu']:.1f}",
                megabytes(it["cold"]["rss"]),
            )
        )  # fmt: skip
        for case in ("new tag", "other repository"):
            reused = f"{it[case]['reused']:.0f} of {it['layers']}"
            speed_up = f"{wall / it[case]['wall']:.0f}"
            warm.append((name, case, reused, seconds(it[case]["wall"]), speed_up, seconds(it[case]["cpu"])))
    head = (
        "image", "layers", "tar, MB", "gzip, MB", "conversion, s", "MB/s of tar", "pull alone, s", "convert alone, s",
        "push alone, s", "÷ sum", "÷ slowest", "skopeo copy, s", "÷ copy", "CPU with registries, s", "peak RSS, MB",
    )  # fmt: skip
    ratios = {name: it["cold"]["wall"] / _slowest(it) for name, it in images.items()}
    worst = max(ratios, key=ratios.__getitem__)
    slowest_warm = max(it[case]["wall"] for it in images.values() for case in ("new tag", "other repository"))
    goals = "\n".join(
        (
            goal(
                f"≤ {GOAL_SLOWEST} × the slowest stage", ratios[worst] <= GOAL_SLOWEST, f"{ratios[worst]:.2f} × at most"
            ),
            goal(
                "under a second where all layers are known",
                slowest_warm < GOAL_WARM,
                f"{seconds(slowest_warm)} s at most",
            ),
        )
    )
    warm_head = ("image", "warm: all layers known", "layers reused", "conversion, s", "× faster than cold", "CPU, s")
    return f"{table(head, rows)}\n\n{table(warm_head, warm)}\n\n{goals}", []


def _slowest(image: dict[str, Any]) -> float:
    return float(max(image[stage]["wall"] for stage in STAGES))
