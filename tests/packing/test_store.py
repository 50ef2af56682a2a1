from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bentoml
import pytest

from guidance_core.packing import store
from guidance_core.packing.package import CannotPack, Package


def make_package(tmp_path: Path, text: str = "weights") -> Package:
    source = tmp_path / "source.bin"
    source.write_text(text)
    return Package(
        "some-model", {"weights.bin": source, "sub/same.bin": source}, {"executor": "torch"}, {"size": 7, "gpu": None}
    )


def publish(package: Package, *, copy: bool = False) -> str:
    with store.workspace(package.name) as folder:
        return store.publish(package, folder, copy=copy)


def test_a_published_model_has_its_files_labels_and_metadata(empty_store: Path, tmp_path: Path) -> None:
    tag = publish(make_package(tmp_path))
    model = bentoml.models.get("some-model:latest")
    assert str(model.tag) == tag
    assert Path(model.path_of("weights.bin")).read_text() == "weights"
    assert Path(model.path_of("sub/same.bin")).read_text() == "weights"
    assert model.info.labels == {"executor": "torch"}
    assert model.info.metadata == {"size": 7}


def test_files_are_hard_linked_on_one_file_system(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    stored = empty_store / publish(package).replace(":", "/") / "weights.bin"
    assert stored.samefile(package.files["weights.bin"])


def test_links_in_the_source_are_followed(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    link = tmp_path / "link.bin"
    link.symlink_to(package.files["weights.bin"])
    stored = empty_store / publish(Package("some-model", {"weights.bin": link})).replace(":", "/") / "weights.bin"
    assert not stored.is_symlink()
    assert stored.read_text() == "weights"


def test_what_packing_writes_itself_is_stored_and_names_the_version(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    tags = {publish(Package(package.name, package.files, texts={"sub/made.json": text})) for text in ("{}", "{ }")}
    assert len(tags) == 2
    stored = {(empty_store / tag.replace(":", "/") / "sub/made.json").read_text() for tag in tags}
    assert stored == {"{}", "{ }"}


def test_a_copy_does_not_change_with_its_source(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    stored = empty_store / publish(package, copy=True).replace(":", "/") / "weights.bin"
    package.files["weights.bin"].write_text("changed")
    assert stored.read_text() == "weights"


def test_files_are_copied_where_links_do_not_work(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    package = make_package(tmp_path)
    stored = empty_store / publish(package).replace(":", "/") / "weights.bin"
    assert stored.read_text() == "weights"
    assert not stored.samefile(package.files["weights.bin"])


def test_the_same_content_keeps_its_version_and_other_content_becomes_the_latest(
    empty_store: Path, tmp_path: Path
) -> None:
    first = publish(make_package(tmp_path))
    assert publish(make_package(tmp_path)) == first
    (tmp_path / "other").mkdir()
    second = publish(make_package(tmp_path / "other", "other weights"))
    assert second != first
    assert str(bentoml.models.get("some-model").tag) == second
    assert len(bentoml.models.list("some-model")) == 2
    # packing the first again makes it the latest again
    assert publish(make_package(tmp_path)) == first
    assert str(bentoml.models.get("some-model").tag) == first


def test_changed_labels_are_a_version_of_their_own(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    relabelled = Package(package.name, package.files, {"executor": "trtllm"}, package.metadata)
    assert publish(package) != publish(relabelled)


def test_a_failure_in_the_middle_leaves_nothing(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    clash = tmp_path / "clash.bin"
    clash.write_text("x")
    # "weights.bin" is a file already when the second one needs it as a folder
    broken = Package(package.name, {**package.files, "weights.bin/inner": clash})
    with pytest.raises(CannotPack, match="BENTOML_HOME"):
        publish(broken)
    assert bentoml.models.list() == []
    assert [path.name for path in (empty_store.parent / ".packing").iterdir()] == ["some-model.lock"]


def test_a_file_that_cannot_be_read_is_named(empty_store: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    package.files["weights.bin"].unlink()
    with pytest.raises(CannotPack, match=r"source\.bin cannot be read: No such file"):
        publish(package)


@pytest.mark.parametrize("copy", [True, False], ids=["copied", "linked"])
def test_a_file_that_changes_while_it_is_packed_is_not_stored_under_another_contents_version(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    package = make_package(tmp_path)
    version = store._version

    def hash_then_change(package: Package) -> str:
        found = version(package)
        package.files["weights.bin"].write_text("changed")
        return found

    monkeypatch.setattr(store, "_version", hash_then_change)
    with pytest.raises(CannotPack, match=r"source\.bin was written to while it was packed"):
        publish(package, copy=copy)
    assert bentoml.models.list() == []


KILLED_WHILE_PACKING = """
import sys, time
from pathlib import Path
from guidance_core.packing import store
from guidance_core.packing.package import Package

def place(source, target, copy):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)

store._place = place
with store.workspace("some-model") as folder:
    store.publish(Package("some-model", {"weights.bin": Path(sys.argv[1])}), folder)
"""


def test_a_model_whose_packing_was_killed_is_not_visible_and_the_next_packing_cleans_up(
    empty_store: Path, tmp_path: Path
) -> None:
    package = make_package(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_PACKING, str(package.files["weights.bin"])],
        stdout=subprocess.PIPE,
        env={**os.environ, "BENTOML_HOME": str(empty_store.parent)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert bentoml.models.list() == []
    with pytest.raises(bentoml.exceptions.NotFound):
        bentoml.models.get("some-model")
    assert (empty_store.parent / ".packing" / "some-model" / "model" / "weights.bin").exists()

    publish(package)
    assert not (empty_store.parent / ".packing" / "some-model").exists()
    assert Path(bentoml.models.get("some-model").path_of("weights.bin")).read_text() == "weights"


HOLDS_THE_WORKSPACE = """
import time
from guidance_core.packing import store
with store.workspace("some-model"):
    print("inside", flush=True)
    time.sleep(1)
    print("leaving", time.time(), flush=True)
"""


def test_two_processes_do_not_pack_one_name_at_once(empty_store: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_WORKSPACE],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BENTOML_HOME": str(empty_store.parent)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    with store.workspace("another-model"):
        assert process.poll() is None, "another name must not wait"
    with store.workspace("some-model"):
        entered = time.time()
    output, _ = process.communicate(timeout=10)
    assert entered >= float(output.split()[1])


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("Llama 3/8B", "llama-3-8b"), ("-x-", "--name x"), ("a" * 70, "--name " + "a" * 63), ("!!!", "my-model")],
)
def test_a_bad_name_is_refused_with_a_good_one(name: str, suggestion: str) -> None:
    with pytest.raises(CannotPack, match=suggestion):
        store.check_name(name)


def test_a_version_cannot_be_chosen() -> None:
    with pytest.raises(CannotPack, match=r"cannot be chosen.*--name mine"):
        store.check_name("mine:v1")
