"""Where the image comes from, in which order, and which images are removed."""

import os
import re
import shutil
from importlib import resources

import pytest

from ragops.docker import objects
from ragops.docker.objects import ExecResult
from ragops.errors import EngineError, ImageError, RagopsError
from ragops.reranker import files, image
from ragops.stack import demo
from tests.support.fake_engine import FakeEngine


@pytest.fixture
def bare():
    """An engine without the image; its base was made before."""
    return FakeEngine(image.BASE)


@pytest.fixture
def fetched(monkeypatch):
    """What pip was asked for."""
    asked = []
    monkeypatch.setattr(files, "download", lambda *argv, **options: asked.append((argv, options)))
    return asked


def ensure(engine, home, name=image.DEFAULT):
    return image.ensure(engine, name, home)


def test_one_that_is_there_is_taken(fake, tmp_path):
    assert ensure(fake, tmp_path) == fake.image(image.DEFAULT)
    assert fake.calls == []


def test_official_one_is_pulled_by_digest_where_a_registry_answers(bare, tmp_path):
    bare.registry.add(image.OFFICIAL)
    made = ensure(bare, tmp_path)
    assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", image.OFFICIAL)
    assert made.tags == (image.DEFAULT,)
    assert made.digests == (image.OFFICIAL,)
    assert bare.calls == [f"pull {image.OFFICIAL}", f"tag {image.DEFAULT}"]


def test_else_it_is_built(bare, tmp_path, fetched, steps):
    bare.build_output = ("Step 1/2", "Step 2/2")
    assert ensure(bare, tmp_path).labels["org.ragops"] == "image"
    assert len(steps) == 3  # pull, download, build
    assert (tmp_path / "logs" / "image.log").read_text() == "Step 1/2\nStep 2/2\n"
    assert not list((tmp_path / "build").iterdir())


def test_wheels_are_for_the_images_python_and_hashed(bare, tmp_path, fetched):
    ensure(bare, tmp_path)
    (torch, torch_options), (lock, lock_options) = fetched
    assert torch[1].endswith("+cpu")
    assert torch_options == {"python": "3.11"}
    assert lock[1] == "--requirement"
    assert lock_options == {"python": "3.11", "hashes": True}


def test_every_locked_wheel_has_a_hash():
    text = (resources.files("ragops.data") / "image" / "requirements.lock").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert not [line for line in lines if line.startswith(("triton", "nvidia"))]


def test_a_container_that_only_inherits_the_label_of_an_image_is_not_ours(fake):
    recipes = (resources.files("ragops.data") / name / "Dockerfile" for name in ("image", "demo", "gateway"))
    roles = {role for recipe in recipes for role in re.findall(r"org\.ragops=([\w-]+)", recipe.read_text())}
    assert roles == objects.IMAGE_ROLES - {"base"}
    for role in roles:
        fake.add_container(role, labels={"org.ragops": role})
        assert not fake.container(role).ours


def test_another_name_is_only_pulled(bare, tmp_path):
    bare.registry.add("mine:1")
    assert ensure(bare, tmp_path, "mine:1").tags == ("mine:1",)
    with pytest.raises(ImageError, match="no image other:1, and could not pull it") as caught:
        ensure(bare, tmp_path, "other:1")
    assert "leave image out" in caught.value.hint
    assert not [call for call in bare.calls if call.startswith("build")]


def test_failed_build_shows_the_end_of_its_log(bare, tmp_path, fetched):
    bare.build_output = tuple(f"line {number}" for number in range(30))
    build = bare.build

    def fail(*argv, **options):
        yield from build(*argv, **options)
        raise EngineError("building failed", evidence="returned a non-zero code: 1")

    bare.build = fail
    with pytest.raises(ImageError, match="building failed") as caught:
        image.build(bare, tmp_path)
    lines = caught.value.evidence.splitlines()
    assert (lines[0], lines[-2:]) == ("line 10", ["line 29", "returned a non-zero code: 1"])
    assert "image.log" in caught.value.hint
    assert not list((tmp_path / "build").iterdir())


def test_missing_cpu_build_of_torch_says_where_it_is(bare, tmp_path, monkeypatch):
    def nothing(*_, **__):
        raise RagopsError("pip could not get it", evidence="No matching distribution")

    monkeypatch.setattr(files, "download", nothing)
    with pytest.raises(ImageError, match="no CPU build of torch") as caught:
        ensure(bare, tmp_path)
    assert "extra-index-url" in caught.value.hint


class TestBase:
    def test_needs_root(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(ImageError, match="needs root"):
            image.build(FakeEngine(), tmp_path)

    def test_needs_debootstrap(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(ImageError, match="needs debootstrap"):
            image.build(FakeEngine(), tmp_path)

    @pytest.fixture
    def programs(self, tmp_path, monkeypatch):
        """Stand-ins for debootstrap and tar, first on the path."""
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in {
            "debootstrap": 'echo "$@"; for last; do :; done; mkdir -p "$4/usr/share/doc/x" "$4/etc"',
            "tar": 'echo tar; touch "$4"',
        }.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        return folder

    def test_is_made_once_and_imported(self, tmp_path, programs, fetched):
        engine = FakeEngine("other:1")
        image.build(engine, tmp_path)
        image.build(engine, tmp_path)
        assert engine.calls.count(f"import {image.BASE}") == 1

    def test_mirror_can_be_named(self, tmp_path, programs, fetched, monkeypatch):
        monkeypatch.setenv("RAGOPS_DEBIAN_MIRROR", "http://mirror.test/debian")
        image.build(FakeEngine("other:1"), tmp_path)
        log = (tmp_path / "logs" / "image.log").read_text()
        assert "--include=python3,python3-venv," in log
        assert log.splitlines()[0].endswith("http://mirror.test/debian")

    def test_program_that_fails_is_named(self, tmp_path, programs, fetched):
        (programs / "debootstrap").write_text("#!/bin/sh\necho E: no mirror\nexit 3\n")
        with pytest.raises(ImageError, match="debootstrap failed with exit code 3") as caught:
            image.build(FakeEngine("other:1"), tmp_path)
        assert "E: no mirror" in caught.value.evidence


class TestRemove:
    """``down --all`` removes what was recorded at build or pull, and is unchanged."""

    @pytest.fixture
    def pulled(self, bare, tmp_path):
        bare.registry.add(image.OFFICIAL)
        return ensure(bare, tmp_path)

    @pytest.fixture
    def built(self, bare, tmp_path, fetched):
        return ensure(bare, tmp_path)

    def test_what_was_built_goes_and_what_existed_before_stays(self, bare, tmp_path, built):
        bare.add_image("theirs:1")
        assert image.remove_recorded(bare, tmp_path) == ()
        assert bare.image(built.id) is None
        assert bare.image("theirs:1")
        assert bare.image(image.BASE)
        assert (tmp_path / "images.txt").read_text() == ""

    def test_what_was_pulled_goes_with_all_its_names(self, bare, tmp_path, pulled):
        assert image.remove_recorded(bare, tmp_path) == ()
        assert bare.image(pulled.id) is None
        calls = list(bare.calls)
        assert image.remove_recorded(bare, tmp_path) == ()
        assert bare.calls == calls

    def test_a_digest_that_goes_with_its_tag_is_no_error(self, bare, tmp_path, built, monkeypatch):
        """As in containerd's image store, where a local image has a digest too."""
        bare.change_image(built.id, digests=(f"vllm-cpu@{built.id}",))
        with (tmp_path / "images.txt").open("a") as records:
            records.write(f"{bare.id} {built.id} vllm-cpu@{built.id}\n")
        monkeypatch.setattr(bare, "remove_image", lambda name: bare._images.pop(bare._image(name, "x").id))
        assert image.remove_recorded(bare, tmp_path) == ()
        assert bare.image(built.id) is None

    def test_the_image_of_the_demo_client_goes_too(self, bare, tmp_path, built, fetched):
        bare.respond = lambda _container, _argv, _stdin: ExecResult(0, "3.11\n", "")
        demo.up(bare, built.id, tmp_path)
        bare.remove_container(demo.NAME)
        assert image.remove_recorded(bare, tmp_path) == ()
        assert [bare.image(demo.IMAGE), bare.image(built.id)] == [None, None]

    def test_a_failed_build_leaves_nothing_unrecorded(self, tmp_path, fetched, monkeypatch):
        engine = FakeEngine("other:1")
        monkeypatch.setattr(image, "_import_base", lambda *_: engine.add_image(image.BASE))
        engine.refuse("build", "returned a non-zero code: 1")
        with pytest.raises(ImageError):
            image.build(engine, tmp_path)
        image.remove_recorded(engine, tmp_path)
        assert engine.image(image.BASE) is None

    @pytest.mark.parametrize("existing", [image.DEFAULT, image.OFFICIAL])
    def test_an_image_that_existed_before_stays(self, tmp_path, existing):
        engine = FakeEngine("other:1")
        before = engine.add_image(existing)
        if "@" in existing:
            before = engine.change_image(before.id, tags=(), digests=(existing,))
        engine.registry.add(image.OFFICIAL)
        ensure(engine, tmp_path)
        image.remove_recorded(engine, tmp_path)
        assert engine.image(before.id).names == before.names

    def test_the_users_own_image_under_that_name_stays(self, bare, tmp_path, pulled):
        theirs = bare.add_image("own:1")
        bare.tag("own:1", image.DEFAULT)
        image.remove_recorded(bare, tmp_path)
        assert bare.image(image.DEFAULT).id == theirs.id
        assert bare.image(pulled.id) is None

    def test_a_name_of_the_user_keeps_the_image(self, bare, tmp_path, pulled):
        bare.tag(image.DEFAULT, "own:1")
        image.remove_recorded(bare, tmp_path)
        assert bare.image(pulled.id).names == ("own:1",)

    def test_images_of_another_engine_stay(self, bare, tmp_path, pulled):
        other = FakeEngine(image.DEFAULT)
        assert image.remove_recorded(other, tmp_path) == ()
        assert other.image(image.DEFAULT)
        image.remove_recorded(bare, tmp_path)
        assert bare.image(pulled.id) is None

    def test_an_image_built_from_ours_keeps_it_and_itself(self, bare, tmp_path, built):
        theirs = bare.add_image("own:1", labels=built.labels, layers=(*built.layers, "sha256:more"))
        bare.add_container("user", image="own:1")
        (note,) = image.remove_recorded(bare, tmp_path)
        assert image.DEFAULT in note
        assert "own:1" in note
        assert bare.image(theirs.id)
        assert bare.image(built.id)

    def test_an_image_in_use_goes_once_it_is_free(self, bare, tmp_path, built):
        bare.add_container("user", image=image.DEFAULT)
        (note,) = image.remove_recorded(bare, tmp_path)
        assert "user" in note
        bare.remove_container("user")
        assert image.remove_recorded(bare, tmp_path) == ()
        assert bare.image(built.id) is None

    def test_a_refusal_of_the_engine_is_a_note(self, bare, tmp_path, built):
        bare.refuse("remove image", "conflict: no")
        (note,) = image.remove_recorded(bare, tmp_path)
        assert "conflict: no" in note
        assert image.remove_recorded(bare, tmp_path) == ()
        assert bare.image(built.id) is None
