import pytest

from agents.training import requirements
from agents.training.requirements import _read_available_memory, check_needs
from configs.run_config import make_config
from runtime.run_directory import RunDirectory
from tests.refusals import refusal


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Bytes of memory and disk that the checks see."""
    has: dict[str, int | None] = {"memory": 10**15, "disk": 10**15}
    monkeypatch.setattr(requirements, "_read_available_memory", lambda: has["memory"])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": has["disk"]}))
    return has


NO_ROOM = "{{path}} needs {} GB of disk, {} GB are free; make room or choose another --runs folder."


# Replay buffer of 100_000 transitions: 128_124 frames of 7056 + 1 bytes in its ring (1.05 frames a
# transition, the slack is 1.05 x 2 x 10_004 + 1000), 122_008 transitions of 14 bytes, and 16 bytes:
# 905_879_196. With 32 samples of 500 kB and an environment of 1.2 MB: 0.92 GB.
# Disk: the replay buffer, 4 files of 30 MB, and half a byte per agent step.
@pytest.mark.parametrize(
    ("algo", "overrides", "has", "message"),
    [
        ("dqn", {}, {"memory": 923_079_196}, None),
        (
            *("dqn", {}, {"memory": 923_079_195}),
            "Pong/dqn-cnn/seed0 needs 0.92 GB of memory, 0.92 GB are available; set a smaller "
            "buffer_size, batch_size, n_envs or checkpoint_every_agent_steps.",
        ),
        ("dqn", {}, {"memory": None}, None),  # the system does not tell
        ("dqn", {}, {"disk": 1_026_379_196}, None),
        (*("dqn", {}, {"disk": 1_026_379_195}), NO_ROOM.format("1.03", "1.03")),
        ("a2c", {}, {"memory": 80 * 500_000 + 16 * 1_200_000, "disk": 125_000_000}, None),
        (
            *("a2c", {"n_steps": 50}, {"memory": 10**8}),
            "Pong/a2c-cnn,n_steps=50/seed0 needs 0.42 GB of memory, 0.10 GB are available; set a "
            "smaller n_envs or n_steps.",
        ),
        (
            *("a2c", {"total_agent_steps": 10**12}, {"disk": 10**11}),
            NO_ROOM.format("500.12", "100.00"),
        ),
    ],
)
def test_what_a_run_needs(tmp_path, machine, algo, overrides, has, message):
    machine |= has
    config = make_config("Pong", algo, overrides)
    runs = tmp_path / "not"
    if message is None:
        check_needs([config], runs)
    else:
        expected = message.replace("{path}", str(runs / config.name))
        assert refusal(check_needs, [config], runs) == expected
    assert not runs.exists()


def test_the_largest_of_several_runs_must_fit(tmp_path, machine):
    """80 and 800 samples of 500 kB, and 16 environments of 1.2 MB, each."""
    small, large = (make_config("Pong", "a2c", {"n_steps": steps}) for steps in (5, 50))
    machine["memory"] = 2 * 419_200_000 - 1
    check_needs([small, large, small], tmp_path, jobs=2)
    assert refusal(check_needs, [small, large, small, large], tmp_path, 2) == (
        "2 jobs need 0.84 GB of memory, 0.84 GB are available; give fewer --jobs."
    )
    machine["memory"] = 419_199_999
    assert refusal(check_needs, [small, large], tmp_path, 1) == (
        f"{large.name} needs 0.42 GB of memory, 0.42 GB are available; set a smaller n_envs or "
        "n_steps."
    )


def test_what_a_run_has_written_is_not_needed_again(tmp_path, machine):
    config = make_config("Pong", "dqn", {})
    directory = RunDirectory(tmp_path / config.name)
    directory.replay_path.mkdir(parents=True)
    with (directory.replay_path / "frames.bin").open("wb") as file:
        file.truncate(10**9)
    machine["disk"] = 612_806_778
    check_needs([config], tmp_path)


STAT = "anon 1\ninactive_file 2000\nactive_file 500\n"


@pytest.mark.parametrize(
    ("groups", "files", "available"),
    [
        (None, {}, 8192),  # of the machine, in kB
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/b/memory.current": "7\n"}, 8192),
        # 9000 less the 5000 in use, of which 2500 are files that would make room.
        ("0::/a\n", {"a/memory.max": "9000\n", "a/memory.current": "5000\n"}, 6500),
        ("0::/a\n", {"memory.max": "3000\n", "memory.current": "6000\n"}, 0),
        ("0::/a\n", {"a/memory.max": "99000\n", "a/memory.current": "5000\n"}, 8192),
        (
            "7:memory:/docker/1\n4:cpu:/docker/1\n",
            {f"memory/docker/1/memory.{name}_in_bytes": "5000" for name in ("limit", "usage")},
            2500,
        ),
    ],
)
def test_available_memory_is_the_machines_or_what_the_control_group_leaves(
    tmp_path, groups, files, available
):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  16 kB\nMemAvailable:   8 kB\nHuge: 0\n")
    if groups is not None:
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.with_name("memory.stat").write_text(STAT)
    assert _read_available_memory(tmp_path) == available


@pytest.mark.parametrize("told", [None, "MemTotal: 16 kB\n", "nothing\n"])
def test_a_system_that_does_not_tell_its_memory(tmp_path, told):
    if told is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(told)
    assert _read_available_memory(tmp_path) is None
