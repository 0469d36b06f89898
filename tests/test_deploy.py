"""Files of deploy/ that need servers which the tests can't start: Docker, Compose, Kubernetes."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import reverse

ROOT = Path(__file__).parents[1]
SETTINGS = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "docs" / "settings.md").read_text()))
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
KUBERNETES = {
    resource["kind"]: resource
    for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml")
    for resource in yaml.safe_load_all(path.read_text())
}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def is_setting(name: str) -> bool:
    return name.removesuffix("_FILE") in SETTINGS


def test_compose_sets_settings_only() -> None:
    environment = COMPOSE["services"]["platform"]["environment"]
    assert [name for name in environment if not is_setting(name)] == []


def test_compose_trusts_the_network_that_caddy_is_in_and_no_other() -> None:
    platform, caddy = (set(COMPOSE["services"][name]["networks"]) for name in ("platform", "caddy"))
    (shared,) = platform & caddy
    (subnet,) = COMPOSE["networks"][shared]["ipam"]["config"]
    assert COMPOSE["services"]["platform"]["environment"]["TRUSTED_PROXIES"] == subnet["subnet"]
    assert COMPOSE["networks"][shared]["internal"]


def test_compose_defines_every_secret_volume_and_service_that_it_uses() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", {})) <= set(services)
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if not name.startswith(".")} <= set(COMPOSE["volumes"])


def test_the_commands_of_the_docs_create_the_secrets_of_compose() -> None:
    docs = (ROOT / "docs" / "install.md").read_text()
    for secret in COMPOSE["secrets"].values():
        assert f">{Path(secret['file']).name}" in docs


def test_kubernetes_sets_settings_only() -> None:
    (config,) = KUBERNETES["Kustomization"]["configMapGenerator"]
    assert [name for name, _ in (line.split("=", 1) for line in config["literals"])] != []
    assert all(is_setting(line.split("=")[0]) for line in config["literals"])


def job_of(kind: str) -> dict[str, Any]:
    """Return the specification with the template of the pods."""
    spec: dict[str, Any] = KUBERNETES[kind]["spec"]
    return spec.get("jobTemplate", {"spec": spec})["spec"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["Deployment", "Job", "CronJob"])
def test_pods_satisfy_the_restricted_pod_security_standard(kind: str) -> None:
    pod = job_of(kind)["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}" in DOCKERFILE
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_service_and_disruption_budget_select_the_pods() -> None:
    labels = KUBERNETES["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert KUBERNETES["Service"]["spec"]["selector"] == labels
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    # Not the pods of the jobs.
    for kind in ("Job", "CronJob"):
        assert job_of(kind)["template"]["metadata"]["labels"] != labels


def test_old_rows_are_deleted_by_one_of_server_and_job() -> None:
    (container,) = job_of("CronJob")["template"]["spec"]["containers"]
    assert container["args"] == ["cleanup"]
    assert 'ENTRYPOINT ["comfyui-keys"]' in DOCKERFILE
    (config,) = KUBERNETES["Kustomization"]["configMapGenerator"]
    assert "CLEANUP_IN_SERVER=0" in config["literals"]
    assert set(KUBERNETES["Kustomization"]["resources"]) == {
        path.name for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml")
    } - {"kustomization.yaml"}


def test_the_image_gets_every_package_of_the_wheel_and_nothing_that_is_secret() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {path.split("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]}
    first, *rest = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    sent = {line.removeprefix("!") for line in rest if line.startswith("!")}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= sent
    assert not sent & {"var", ".git", "deploy", "tests"}


def test_the_image_installs_by_hash_and_does_not_run_as_root() -> None:
    assert "--require-hashes" in DOCKERFILE
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] not in {"root", "0"}


# --- Prometheus and Grafana: tests/live/test_metrics.py compares the metrics with a scrape ---

ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())[
        "groups"
    ]
    for rule in group["rules"]
]


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_why_and_what_to_do_and_leads_to_the_runbook(rule: dict) -> None:
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert annotations["summary"].endswith(".")
    # A reason and an advice.
    assert annotations["description"].count(". ") >= 1
    page, _, anchor = annotations["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert anchor in anchors(page)


def test_each_section_of_alerts_in_the_runbook_has_an_alert() -> None:
    sections = (ROOT / "docs" / "runbook.md").read_text().partition("\n## Alerts\n")[2]
    named = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in ALERTS}
    headings = re.findall(r"^### (.+)$", sections, re.MULTILINE)
    assert {heading.lower().replace(" ", "-") for heading in headings} == named
    assert f"has {len(ALERTS)} alerts" in (ROOT / "docs" / "monitoring.md").read_text()


def test_panels_of_the_dashboard_do_not_overlap_and_name_the_data_source() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _y in cells) < 24
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"


def test_prometheus_scrapes_with_the_secret_from_a_file() -> None:
    example = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (job,) = example["scrape_configs"]
    # The alert on `up` names the job.
    assert f'job="{job["job_name"]}"' in next(
        rule["expr"] for rule in ALERTS if "up{" in rule["expr"]
    )
    assert set(job["authorization"]) == {"credentials_file"}
    (rules,) = example["rule_files"]
    assert (ROOT / "deploy" / "prometheus" / rules).is_file()


# --- Traefik ---------------------------------------------------------------------------------

TRAEFIK = yaml.safe_load((ROOT / "deploy" / "traefik" / "site.yaml").read_text())["http"]


def test_traefik_defines_every_middleware_and_service_that_it_uses() -> None:
    routers = TRAEFIK["routers"].values()
    used = {name for router in routers for name in router["middlewares"]}
    assert used == set(TRAEFIK["middlewares"])
    assert {router["service"] for router in routers} == set(TRAEFIK["services"])


def test_traefik_asks_before_comfyui_and_removes_secrets_afterwards() -> None:
    before, auth, after = TRAEFIK["routers"]["comfyui"]["middlewares"]
    asked = TRAEFIK["middlewares"][auth]["forwardAuth"]
    assert asked["address"].endswith("/api/v1/auth?site=comfy.example.org")
    assert not asked["trustForwardHeader"]
    # Traefik replaces these headers of the client, or removes them.
    assert {"X-Auth-User", "Comfy-User"} <= set(asked["authResponseHeaders"])
    removed = TRAEFIK["middlewares"][after]["headers"]["customRequestHeaders"]
    # ComfyUI refuses a page that Sec-Fetch-Site calls cross-site, as after the login.
    secrets = {"X-API-Key": "", "Authorization": "", "Cookie": ""}
    assert removed == {**secrets, "Sec-Fetch-Site": ""}
    assert set(TRAEFIK["middlewares"][before]["headers"]["customRequestHeaders"].values()) == {""}


def test_traefik_forwards_to_urls_of_the_platform() -> None:
    callback = TRAEFIK["middlewares"]["comfyui-callback-path"]["replacePathRegex"]["replacement"]
    users = TRAEFIK["middlewares"]["comfyui-users-path"]["replacePath"]["path"]
    for name, path in (("site_callback", callback), ("site_users", users)):
        assert reverse(name, kwargs={"authority": "comfy.example.org"}) == path
