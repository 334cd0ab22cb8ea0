"""Atomic writing: a crash leaves the old file or the new one, and no other file is harmed."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import seqcore as sc


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def no_space(*args, **kwargs):
    del args, kwargs
    raise OSError(28, "No space left on device")


def interrupted(*args, **kwargs):
    del args, kwargs
    raise KeyboardInterrupt


@pytest.mark.host
@pytest.mark.parametrize("target", ["write", "fsync", "replace"])
@pytest.mark.parametrize("failure", [no_space, interrupted])
@pytest.mark.parametrize("existing", [True, False], ids=["old file", "no old file"])
def test_a_failure_while_writing_leaves_the_folder_as_it_was(
    target, failure, existing, path, monkeypatch
):
    class Half(io.FileIO):
        """A file that fails in the middle of its first write."""

        def write(self, data):
            super().write(data[: len(data) // 2])
            failure()

    old = {}
    if existing:
        sc.save_checkpoint(path, {"w": np.zeros(3)})
        old = {path.name: path.read_bytes()}
    with monkeypatch.context() as patch:
        if target == "write":
            patch.setattr(os, "fdopen", Half)
        else:
            patch.setattr({"fsync": os, "replace": Path}[target], target, failure)
        with pytest.raises((OSError, KeyboardInterrupt)):
            sc.save_checkpoint(path, {"w": np.ones(300)})
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == old


@pytest.mark.host
def test_data_is_synced_before_the_file_is_renamed(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace

    def noted(word, function):
        def call(*given):
            calls.append(word)
            return function(*given)

        return call

    monkeypatch.setattr(os, "fsync", noted("sync", fsync))
    monkeypatch.setattr(Path, "replace", noted("rename", replace))
    sc.save_checkpoint(path, {"w": np.ones(3)})
    assert calls[:2] == ["sync", "rename"]
    if os.name == "posix":  # and the folder after it
        assert calls == ["sync", "rename", "sync"]


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_file_mode_follows_the_umask(umask, mode, path):
    before = os.umask(umask)
    try:
        sc.save_checkpoint(path, {"w": np.ones(2)})
        assert os.umask(umask) == umask  # asking for the umask must not change it
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize("mode", [0o400, 0o444, 0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_mode_and_is_never_open_to_more(mode, path, monkeypatch):
    sc.save_checkpoint(path, {"w": np.ones(2)})
    path.chmod(mode)
    seen = []

    def noted(descriptor):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            seen.append(stat.S_IMODE(found.st_mode))

    monkeypatch.setattr(os, "fsync", noted)
    sc.save_checkpoint(path, {"w": np.zeros(2)})
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [found & ~(mode | 0o600) for found in seen] == [0]  # while it is written


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_writing_never_touches_the_umask_of_the_process(path, monkeypatch):
    before = os.umask(0o022)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask is that of all threads"))
            for _ in range(2):
                sc.save_checkpoint(path, {"w": np.ones(2)})
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_files_that_threads_make_meanwhile_get_the_mode_of_the_umask(tmp_path):
    def save(number):
        for k in range(40):
            sc.save_checkpoint(tmp_path / f"saved-{number}-{k}", {"w": np.ones(2)})

    def touch(number):
        for k in range(400):
            (tmp_path / f"other-{number}-{k}").touch()

    threads = [threading.Thread(target=work, args=(k,)) for work in (save, touch) for k in range(4)]
    before, interval = os.umask(0o022), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.umask(0o022) == 0o022
    finally:
        sys.setswitchinterval(interval)
        os.umask(before)
    modes = [stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()]
    assert (len(modes), set(modes)) == (4 * 440, {0o644})


@pytest.mark.host
@pytest.mark.parametrize("target", ["write", "fsync", "replace", "open"])
def test_an_error_while_writing_names_the_file(target, path, monkeypatch):
    class Full(io.FileIO):
        def write(self, _):
            no_space()

    owner, name = {
        "write": (os, "fdopen"),
        "fsync": (os, "fsync"),
        "replace": (Path, "replace"),
        "open": (os, "open"),
    }[target]
    monkeypatch.setattr(owner, name, Full if target == "write" else no_space)
    with pytest.raises(OSError, match="No space left on device") as caught:
        sc.save_checkpoint(path, {"w": np.ones(3)})
    assert (caught.value.errno, caught.value.filename) == (28, str(path))


# --- what stands at the path already ----------------------------------------------------


def saves(path):
    """Return each way to write a file."""
    dropout = sc.Dropout(0.5)
    return [
        lambda: sc.save_checkpoint(path, {"w": np.ones(3)}),
        lambda: sc.save_model(path, dropout, {}),
        lambda: sc.files.write_atomically(path, b"data"),
    ]


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX")
@pytest.mark.parametrize("save", range(3))
@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
@pytest.mark.parametrize("existing", [True, False], ids=["old file", "no old file"])
def test_what_a_link_points_to_is_replaced_and_the_link_stays(
    save, links, relative, existing, tmp_path
):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    target = there / "best"
    if existing:
        target.write_bytes(b"old")
        target.chmod(0o640)
        (there / "last").hardlink_to(target)  # another file from now on
    end = target
    for number in range(links):
        path = here / f"link-{number}"
        path.symlink_to(os.path.relpath(end, here) if relative else end)
        end = path
    saves(path)[save]()
    assert all(file.is_symlink() for file in here.iterdir())
    assert len(list(here.iterdir())) == links
    assert target.stat().st_size > 3
    assert not target.is_symlink()
    names = {file.name for file in there.iterdir()}
    assert names == ({"best", "last"} if existing else {"best"})
    if existing:
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        assert (there / "last").read_bytes() == b"old"


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def make_loop(path):
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def make_link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def make_link_to_a_folder(path):
    path.with_name("folder").mkdir()
    path.symlink_to("folder")


def make_link_to_nowhere(path):
    path.symlink_to("nowhere/file")


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX")
@pytest.mark.parametrize("save", range(3))
@pytest.mark.parametrize(
    ("make", "number"),
    [
        (make_pipe, errno.EINVAL),
        (make_socket, errno.EINVAL),
        (make_link_to_a_pipe, errno.EINVAL),
        (make_loop, errno.ELOOP),
        (Path.mkdir, errno.EISDIR),
        (make_link_to_a_folder, errno.EISDIR),
        (make_link_to_nowhere, errno.ENOENT),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_a_file_is_refused_and_stays(save, make, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("m")  # short, for the name of a socket
    make(path)

    def found():
        return {file: file.lstat().st_mode for file in Path().iterdir()}

    before = found()
    with pytest.raises(OSError, match=str(path)) as caught:
        saves(path)[save]()
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert found() == before


KILLED = """
import os, signal, sys
import numpy as np
import seqcore as sc
def fsync(_):
    print("writing", flush=True)
    sys.stdin.read()
os.fsync = fsync
sc.save_checkpoint(sys.argv[1], {"w": np.ones(3)})
"""


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="file locks are POSIX")
def test_what_a_killed_writer_left_is_swept_and_nothing_else(path):
    others = [
        *(f".{path.name}.abcdefg", f".{path.name}.abcdefghi", f".{path.name}.ABCDEFGH"),
        *(f"{path.name}.abcdefgh", ".other.safetensors.abcdefgh", f"x.{path.name}.abcdefgh"),
    ]
    for name in others:
        (path.parent / name).write_text("mine")
    # Empty: its writer may be about to lock it.
    (path.parent / f".{path.name}.empty123").touch()
    kept = sorted([*others, f".{path.name}.empty123"])
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, path],
        env=os.environ | {"PYTHONPATH": str(Path(sc.__file__).parent.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout.readline() == b"writing\n"
        assert len(list(path.parent.iterdir())) == len(kept) + 1
        # While it writes, its file is its own.
        sc.save_checkpoint(path, {"w": np.zeros(3)})
        assert len(list(path.parent.iterdir())) == len(kept) + 2
    finally:
        writer.kill()
        writer.communicate()
    assert len(list(path.parent.iterdir())) == len(kept) + 2
    sc.save_checkpoint(path, {"w": np.zeros(3)})
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([*kept, path.name])
