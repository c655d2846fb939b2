"""The scripts under tpu/ against a `gcloud` on PATH: exact calls, and the failures of clouds."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TPU = ROOT / "tpu"
STAND_IN = Path(__file__).parent / "gcloud_stand_in.py"
VERBS = ("create", "prepare", "launch", "follow", "resume", "delete")
WHERE = ["--project=proj", "--zone=zone-a", "--quiet"]
LINES = "NAME=job\nPROJECT=proj\nZONE=zone-a\nACCELERATOR=v5litepod-16\nPOLL=0\n"
TRAIN = ("train", "configs/ci.yaml", "run=/mnt/rational/a b")
STATE = ["compute", "tpus", "queued-resources", "describe", "job", "--format=value(state.state)", *WHERE]
NODE = ["compute", "tpus", "tpu-vm", "describe", "job", "--format=value(state)", *WHERE]
MISSING = [1, "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: no such resource"]
FLAKE = [1, "ERROR: (gcloud) 503: the service is unavailable"]
DROPPED = [255, "ERROR: [/usr/bin/ssh] exited with return code [255]."]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


class Cloud:
    """A folder with a stand-in for gcloud, settings, and what was asked of it."""

    def __init__(self, folder: Path, plan: dict[str, list], settings: str = ""):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "home").mkdir()
        gcloud = folder / "bin" / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{STAND_IN}" "$@"\n')
        gcloud.chmod(0o755)
        rules = [{"call": call, "answers": answers} for call, answers in plan.items()]
        (folder / "plan.json").write_text(json.dumps(rules))
        (folder / "settings.env").write_text(LINES + settings)

    def run(self, verb: str, *words: str, code: int = 0, **environment: str) -> str:
        """What the verb says, on both streams."""
        names = {"GCLOUD_STAND_IN": str(self.folder), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", str(TPU / f"{verb}.sh"), "--settings", str(self.folder / "settings.env"), *words]
        found = subprocess.run(
            command,
            env=os.environ | names | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert found.returncode == code, found.stdout
        return found.stdout

    @property
    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self) -> list[str]:
        """The calls in short: create, delete, scp, and of ssh the last word of the worker's script and its verb."""
        short = []
        for _, _, group, verb, *rest in self.calls:
            if verb == "ssh":
                command = next(word for word in rest if word.startswith("--command="))
                verb = command.rpartition("worker.sh ")[2].split()[0]
            if (group, verb) not in {("queued-resources", "describe"), ("tpu-vm", "describe")}:
                short.append(verb)
        return short


@pytest.fixture
def cloud(tmp_path):
    return lambda plan=None, settings="": Cloud(tmp_path, plan or {}, settings)


def call(group: str, verb: str, *words: str) -> list[str]:
    return ["compute", "tpus", group, verb, *words, *WHERE]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_refuses_what_it_does_not_know(verb, cloud):
    found = cloud()
    assert f"tpu/{verb}.sh" in found.run(verb, "--help")
    assert "unknown option --wrong" in found.run(verb, "--wrong", code=2)
    assert found.calls == []


@pytest.mark.parametrize(
    ("settings", "kind", "more"),
    [
        ("", "v2-alpha-tpuv5-lite", ["--node-id=job"]),
        ("SPOT=true\nSLICES=2\n", "v2-alpha-tpuv5-lite", ["--node-count=2", "--node-prefix=job", "--spot"]),
        ("ACCELERATOR=v6e-8\nSERVICE_ACCOUNT=me@x\n", "v2-alpha-tpuv6e", ["--node-id=job", "--service-account=me@x"]),
        ("ACCELERATOR=v5p-8\nRUNTIME=mine\nNETWORK=n\nSUBNETWORK=s\n", "mine", None),
        ("ACCELERATOR=v4-8\n", "tpu-ubuntu2204-base", ["--node-id=job"]),
    ],
)
def test_what_is_asked_for(cloud, settings, kind, more):
    found = cloud(
        {"describe job --format=value(state.state)": [MISSING, [0, "ACTIVE"]], "describe": [[0, "READY"]]}, settings
    )
    found.run("create")
    accelerator = settings.partition("ACCELERATOR=")[2].split("\n")[0] or "v5litepod-16"
    more = ["--node-id=job", "--network=n", "--subnetwork=s"] if more is None else more
    scopes = "--scopes=https://www.googleapis.com/auth/cloud-platform"
    first = [f"--accelerator-type={accelerator}", f"--runtime-version={kind}", "--valid-until-duration=6h"]
    assert found.calls[:2] == [STATE, call("queued-resources", "create", "job", *first, *more, scopes)]
    nodes = ["job-0", "job-1"] if "SLICES=2" in settings else ["job"]
    assert found.calls[2:] == [STATE, *([*NODE[:4], node, *NODE[5:]] for node in nodes)]


def test_it_waits_in_line_and_says_so_once(cloud):
    line = [MISSING, *[[0, state] for state in ("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING")]]
    found = cloud({"describe job --format=value(state.state)": [*line, [0, "ACTIVE"]], "describe": [[0, "READY"]]})
    said = found.run("create")
    assert said.count("waiting for machines") == 1 and said.endswith("job is ready\n")
    assert sum(words[3] == "create" for words in found.calls) == 1


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (
            "ERROR: (gcloud) Quota limit 'TPUV5sLitepod' has been exceeded. Limit: 8 in region",
            2,
            "quota for v5litepod-16",
        ),
        ("ERROR: (gcloud) There is no more capacity in the zone", 75, "no capacity"),
        ("ERROR: (gcloud) PERMISSION_DENIED: not allowed", 2, "PERMISSION_DENIED"),
    ],
)
def test_what_the_cloud_refuses(cloud, answer, code, says):
    found = cloud({"describe": [MISSING], "create": [[1, answer]]})
    assert says in found.run("create", code=code)
    assert found.verbs() == ["create"]


def test_a_stock_out_and_a_leftover(cloud):
    found = cloud({"describe": [[0, "FAILED"]]})
    assert "tpu/delete.sh" in found.run("create", code=2)
    assert found.verbs() == []


def test_an_expired_request_is_no_machine(cloud):
    found = cloud({"describe": [MISSING, [0, "WAITING_FOR_RESOURCES"], [0, "FAILED"]]})
    assert "no machine within 6h" in found.run("create", code=75)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("SLICES=two\n", "SLICES=two"),
        ("NAME=Big_Job\n", "small letters"),
        ("BUCKET=s3://x\n", "gs://"),
        ("ZONE=\n", "ZONE"),
    ],
)
def test_settings_that_cannot_be(cloud, settings, says):
    found = cloud({}, settings)
    assert says in found.run("create", code=2)
    assert found.calls == []


def test_the_environment_wins_over_the_file(cloud):
    found = cloud({"describe": [MISSING]})
    shown = found.run("create", "--dry-run", ACCELERATOR="v6e-4")
    assert "--accelerator-type=v6e-4" in shown and "--runtime-version=v2-alpha-tpuv6e" in shown
    assert found.calls == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_calls_nobody(cloud, verb):
    found = cloud()
    shown = found.run(verb, "--dry-run", *(TRAIN if verb in ("launch", "resume") else ()))
    assert "gcloud compute tpus" in shown and found.calls == []


def test_the_code_goes_to_every_worker_of_every_slice(cloud):
    found = cloud({}, "SLICES=2\nBUCKET=gs://buck\nSSH_FLAGS=--internal-ip\n")
    found.run("prepare")
    assert [words[3] for words in found.calls] == ["scp", "ssh", "scp", "ssh"]
    for i in (0, 1):
        copy, unpack = found.calls[2 * i : 2 * i + 2]
        archive = copy[4]
        assert copy == call("tpu-vm", "scp", archive, f"job-{i}:rational.tgz", "--worker=all", "--internal-ip")
        assert unpack[4:6] == [f"job-{i}", "--worker=all"] and unpack[7] == "--internal-ip"
        assert unpack[6].endswith("bash rational/tpu/worker.sh prepare gs://buck")
    assert not Path(archive).exists()


def test_a_new_commit_replaces_the_code_and_keeps_what_runs_left(cloud, tmp_path):
    found = cloud()
    found.run("prepare")
    home, commit = tmp_path / "home", tmp_path / "commit"
    script = 'case $1 in busy) [ -e work ] ;; prepare) echo "prepared" ;; esac\n'

    def prepared(**files: str) -> str:
        """What a worker says to the command, where the commit has these files of the package."""
        shutil.rmtree(commit, ignore_errors=True)
        for name, text in {"tpu/worker.sh": script, **{f"package/{name}.py": files[name] for name in files}}.items():
            (commit / name).parent.mkdir(parents=True, exist_ok=True)
            (commit / name).write_text(text)
        subprocess.run(["tar", "-czf", home / "rational.tgz", "-C", commit, "package", "tpu"], check=True)
        command = found.calls[1][6].removeprefix("--command=")
        ran = subprocess.run(
            ["bash", "-c", command], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    assert prepared(old="1", both="1") == "prepared\n"
    kept = [home / "rational" / name for name in ("runs/llama/checkpoints/100", "mine/manifest.json")]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.write_text("hours of work")
    assert prepared(both="2", new="2") == "prepared\n"
    assert [file.read_text() for file in kept] == ["hours of work"] * 2
    package = {file.name: file.read_text() for file in (home / "rational" / "package").iterdir()}
    assert package == {"both.py": "2", "new.py": "2"}
    (home / "work").touch()
    assert prepared(both="3") == ""
    assert (home / "rational" / "package" / "both.py").read_text() == "2"


def test_a_dropped_connection_is_tried_again_and_a_failure_is_not(cloud):
    found = cloud({"scp": [DROPPED, DROPPED, [0, ""]], "ssh": [[12, "error on w1: no Python 3.12"]]})
    said = found.run("prepare", code=2)
    assert "no Python 3.12" in said and "could not be prepared" in said
    assert [words[3] for words in found.calls] == ["scp", "scp", "scp", "ssh"]


def test_a_host_that_never_answers(cloud):
    found = cloud({"scp": [DROPPED]})
    assert "is it there (tpu/create.sh)?" in found.run("prepare", code=2)
    assert len(found.calls) == 5


def test_the_same_command_on_every_worker(cloud):
    found = cloud({}, "SLICES=2\nHF_TOKEN_SECRET=hf\n")
    found.run("launch", *TRAIN, "--arm", "rational")
    command = (
        r"bash rational/tpu/worker.sh start --secret hf -- train configs/ci.yaml run=/mnt/rational/a\ b --arm rational"
    )
    assert found.calls == [call("tpu-vm", "ssh", f"job-{i}", "--worker=all", f"--command={command}") for i in (0, 1)]


def test_one_host_of_a_pod(cloud):
    found = cloud({}, "SLICES=2\n")
    found.run("launch", "--lead", "curate", "my.yaml")
    command = "bash rational/tpu/worker.sh start --alone -- curate my.yaml"
    assert found.calls == [call("tpu-vm", "ssh", "job-0", "--worker=0", f"--command={command}")]


@pytest.mark.parametrize(("answer", "code", "says"), [(0, 0, "is done"), (10, 2, "failed"), (11, 2, "tpu/launch.sh")])
def test_how_a_job_ended(cloud, answer, code, says):
    found = cloud(
        {
            "ssh": [DROPPED, [answer, "the log"]],
            "describe job --format=value(state.state)": [[0, "ACTIVE"]],
            "describe": [[0, "READY"]],
        }
    )
    said = found.run("follow", code=code)
    assert says in said and "the connection dropped" in said


@pytest.mark.parametrize(
    "states", [(["SUSPENDED"], ["READY"]), (["ACTIVE"], ["PREEMPTED"])], ids=["request", "machine"]
)
def test_a_preempted_machine_is_not_followed_on(cloud, states):
    request, machine = ([[0, state] for state in part] for part in states)
    found = cloud({"ssh": [DROPPED], "describe job --format=value(state.state)": request, "describe": machine})
    assert "tpu/resume.sh" in found.run("follow", code=75)


def test_a_preempted_run_goes_on_on_a_new_machine(cloud):
    """The first machine goes while the job is followed, the second cannot be had, the third finishes it."""
    states = [
        [0, "ACTIVE"],  # resume: there is a machine
        [0, "ACTIVE"],  # create: nothing to do
        [0, "ACTIVE"],  # create: ready
        [0, "SUSPENDED"],  # follow, after the connection dropped
        [0, "SUSPENDED"],  # resume: so another one
        [0, "SUSPENDED"],  # resume: what is left is deleted
        [0, "SUSPENDED"],  # delete
        MISSING,  # create
        [0, "FAILED"],  # create: none in time
        [0, "FAILED"],  # resume
        [0, "FAILED"],  # resume, next try
        [0, "FAILED"],  # delete
        MISSING,  # create
        [0, "ACTIVE"],
    ]
    found = cloud(
        {
            "describe job --format=value(state.state)": states,
            "describe": [[0, "READY"]],
            "worker.sh follow": [DROPPED, [0, "step 300"]],
        },
        "SPOT=true\n",
    )
    said = found.run("resume", *TRAIN)
    one = ["scp", "prepare", "start", "follow"]
    assert found.verbs() == [*one, "delete", "create", "delete", "create", *one]
    assert said.endswith(
        "the job is done\njob stays for the next command and costs money until bash tpu/delete.sh has run\n"
    )
    assert "step 300" in said
    assert call("queued-resources", "delete", "job", "--force") in found.calls
    starts = [words for words in found.calls if any("worker.sh start" in word for word in words)]
    assert len(starts) == 2 and starts[0] == starts[1]


def test_resuming_stops_at_what_somebody_has_to_mend(cloud):
    found = cloud(
        {
            "describe job --format=value(state.state)": [[0, "ACTIVE"]],
            "describe": [[0, "READY"]],
            "worker.sh follow": [[10, "error: unknown key"]],
        }
    )
    said = found.run("resume", *TRAIN, code=2)
    assert "error: unknown key" in said and "costs money until bash tpu/delete.sh" in said
    assert found.verbs() == ["scp", "prepare", "start", "follow"]


def test_resuming_gives_up(cloud):
    found = cloud({"describe": [MISSING], "create": [[1, "ERROR: no more capacity"]]}, "TRIES=3\n")
    said = found.run("resume", *TRAIN, code=75)
    assert "gave up after 3 tries" in said and "costs money" not in said
    assert found.verbs() == ["create"] * 3


def test_resuming_what_was_never_asked_for_says_nothing_of_costs(cloud):
    found = cloud({"describe": [MISSING], "create": [[1, "ERROR: (gcloud) PERMISSION_DENIED: not allowed"]]})
    assert "costs money" not in found.run("resume", *TRAIN, code=2)


@pytest.mark.parametrize(("request_fails", "machine_fails"), [([FLAKE], []), ([], [FLAKE])], ids=["request", "machine"])
def test_a_failed_look_takes_no_machine_away_and_ends_nothing(cloud, request_fails, machine_fails):
    found = cloud(
        {
            "describe job --format=value(state.state)": [*request_fails, [0, "ACTIVE"], *request_fails, [0, "ACTIVE"]],
            "describe": [*machine_fails, [0, "READY"]],
            "worker.sh follow": [DROPPED, [0, ""]],
        }
    )
    said = found.run("resume", *TRAIN)
    assert found.verbs() == ["scp", "prepare", "start", "follow", "follow"]
    assert said.count("503: the service is unavailable") == 2 * len(request_fails) + len(machine_fails)


@pytest.mark.parametrize("verb", ["create", "follow", "resume", "delete"])
def test_a_state_that_stays_unknown_changes_nothing(cloud, verb):
    found = cloud({"state.state": [[0, "ACTIVE"]], "describe": [FLAKE], "ssh": [DROPPED]})
    said = found.run(verb, *(TRAIN if verb == "resume" else ()), code=2)
    assert "the state of job is unknown, so nothing was changed" in said and said.count("503") >= 5
    assert found.verbs() == (["follow"] if verb == "follow" else [])


def test_credentials_that_were_not_found_are_no_missing_machine(cloud):
    found = cloud({"describe": [[1, "ERROR: Your default credentials were not found."]]})
    assert "unknown" in found.run("delete", code=2) and found.verbs() == []


def test_a_machine_that_is_not_there_is_gone(cloud):
    found = cloud({"state.state": [[0, "ACTIVE"]], "describe": [[1, "ERROR: NOT_FOUND: no such node"]]})
    assert "preempted or failed" in found.run("create", code=2)


def test_deleting(cloud):
    found = cloud({"describe": [[0, "SUSPENDED"]], "delete": [[1, "ERROR: internal"]]})
    assert "may still cost money" in found.run("delete", code=2)
    found.folder.joinpath("plan.json").write_text(json.dumps([{"call": "describe", "answers": [MISSING]}]))
    assert "there is no job" in found.run("delete")


# What runs on a worker: the real script, with a stand-in for `rational`.


@pytest.fixture
def worker(tmp_path):
    """A function that runs tpu/worker.sh, and the home folder in which `rational` does what its file says."""
    home = tmp_path / "home"
    (home / "rational-env" / "bin").mkdir(parents=True)

    def run(*words: str, code: int = 0, pause: int = 0) -> str:
        environment = os.environ | {"HOME": str(home), "RATIONAL_PAUSE": str(pause), "RATIONAL_RESTARTS": "2"}
        command = ["bash", str(TPU / "worker.sh"), *words]
        found = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        assert found.returncode == code, found.stdout
        return found.stdout

    def does(script: str) -> None:
        file = home / "rational-env" / "bin" / "rational"
        file.write_text(
            f'#!/bin/bash\nn=$(cat "$HOME/n" 2>/dev/null || echo 0); echo $((n + 1)) >"$HOME/n"\n{script}\n'
        )
        file.chmod(0o755)

    return run, does, home


@pytest.mark.parametrize(
    ("script", "code", "starts", "pause"),
    [
        ('echo "words: $*"', 0, 1, 0),
        ('[ "$n" -gt 4 ] || exit 75', 0, 6, 0),  # saved, the machine stayed
        ("exit 75", 10, 3, 2),  # sooner than the pause: a store that nobody can reach, say
        ('[ "$n" -gt 1 ] || exit 1', 0, 3, 0),  # another worker died, twice
        ("exit 1", 10, 3, 0),
        ("exit 2", 10, 1, 0),  # nothing that a second start would mend
    ],
)
def test_a_worker_starts_again_what_may_go_on(worker, script, code, starts, pause):
    run, does, home = worker
    does(script)
    assert "started" in run("start", "--", "train", "a b", pause=pause)
    run("follow", code=code)
    deadline = time.monotonic() + 20
    while not (home / "rational-run" / "code").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (home / "n").read_text().strip() == str(starts)
    assert "rational train a b" in (home / "rational-run" / "log").read_text()


def test_a_job_at_work_is_left_alone_and_one_that_was_killed_is_not(worker):
    run, does, home = worker
    run("follow", code=11)
    does("sleep 60")
    run("start", "--", "train")
    assert "a job is at work" in run("busy")
    assert "nothing is changed" in run("start", "--", "train")
    os.killpg(int((home / "rational-run" / "pid").read_text()), signal.SIGKILL)
    time.sleep(0.3)
    run("busy", code=1)
    run("follow", code=10)
    does("true")
    assert "started" in run("start", "--", "train")
    run("follow")


def test_the_token_comes_from_the_secret_and_one_host_is_told_so(worker, tmp_path, monkeypatch):
    run, does, home = worker
    (tmp_path / "cloud").mkdir()
    cloud = Cloud(tmp_path / "cloud", {"secrets": [[0, "hf_secret"]]})
    monkeypatch.setenv("GCLOUD_STAND_IN", str(cloud.folder))
    monkeypatch.setenv("PATH", f"{cloud.folder / 'bin'}:{os.environ['PATH']}")
    does('[ "$HF_TOKEN" = hf_secret ] && env | grep -E "^(TPU|JAX)_" | sort')
    run("start", "--secret", "mine", "--alone", "--", "curate")
    said = run("follow")
    assert "TPU_PROCESS_BOUNDS=1,1,1" in said
    # Without these `curate` and the like would ask the machine who the other hosts are, and wait for them.
    named = {"JAX_COORDINATOR_ADDRESS": "localhost:8476", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    assert named.items() <= dict(line.split("=", 1) for line in said.splitlines() if "=" in line).items()
    assert cloud.calls == [["secrets", "versions", "access", "latest", "--secret=mine"]]
    assert "hf_secret" not in (home / "rational-run" / "log").read_text()


def test_shellcheck_finds_nothing():
    checker = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if checker is None:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(str(file.relative_to(ROOT)) for file in TPU.glob("*.sh"))
    found = subprocess.run([checker, "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.slow
def test_the_real_gcloud_knows_every_call(cloud, tmp_path):
    """Its own parser, which reads a command without running it, takes each form of each call."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("gcloud is not installed")
    found = cloud(
        {"describe": [MISSING]}, "SPOT=true\nSERVICE_ACCOUNT=a@b\nNETWORK=n\nSUBNETWORK=s\nSSH_FLAGS=--internal-ip\n"
    )
    calls = [STATE, NODE, call("queued-resources", "delete", "job", "--force")]
    for slices in ("1", "2"):
        found.run("resume", "--dry-run", *TRAIN, SLICES=slices)
        shown = found.run("create", "--dry-run", SLICES=slices) + found.run("prepare", "--dry-run", SLICES=slices)
        shown += found.run("launch", "--dry-run", *TRAIN, SLICES=slices)
        lines = [line for line in shown.splitlines() if line.startswith("gcloud compute")]
        calls += [[word for word in shlex.split(line)[1:] if not word.startswith("--command=")] for line in lines]
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "none"), "CLOUDSDK_CORE_CHECK_GCE_METADATA": "0"}
    for words in {tuple(words) for words in calls}:
        line = " ".join(["gcloud", *words]) + (" --command=x" if "ssh" in words else "")
        command = [gcloud, "meta", "lint-gcloud-commands", f"--command-string={line}"]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
        (verdict,) = json.loads(output)
        assert verdict["success"], (line, verdict["error_message"])
