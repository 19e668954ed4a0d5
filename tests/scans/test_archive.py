from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medood.config.schema import ReadConfig
from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan, Status


def png(value: int = 100, mode: str = "L", size: tuple[int, int] = (20, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value if mode != "RGB" else (value,) * 3).save(stream, "PNG")
    return stream.getvalue()


def only(path: Path) -> Scan | Refusal:
    (result,) = read_scans(path)
    return result


def refusal(path: Path) -> Refusal:
    result = only(path)
    assert isinstance(result, Refusal)
    return result


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.arange(0, 250, dtype=np.uint8).reshape(10, 25)).convert(mode)
    image.save(tmp_path / "a.png")
    scan = only(tmp_path / "a.png")
    assert isinstance(scan, Scan)
    assert scan.pixels.shape == (1, 10, 25)
    np.testing.assert_allclose(scan.pixels[0], np.arange(250).reshape(10, 25) / 255, atol=3 / 255)


def test_sixteen_bit_png_uses_percentiles(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 4095, 3000).astype(np.uint16).reshape(50, 60)).save(tmp_path / "a.png")
    scan = only(tmp_path / "a.png")
    assert isinstance(scan, Scan)
    assert scan.grayscale.voi == "percentile 0.5-99.5"
    assert scan.pixels.max() == 1


def test_the_first_bytes_decide_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(png())
    assert isinstance(only(tmp_path / "a.dcm"), Scan)


def test_bad_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("hello")
    (tmp_path / "cut.png").write_bytes(png(size=(400, 400))[:200])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notazip.zip").write_bytes(b"PK\x03\x04 and nothing more")
    found = {Path(r.identity.source).name: r for r in read_scans(tmp_path) if isinstance(r, Refusal)}
    assert found["text.dcm"].status == Status.NOT_AN_IMAGE
    assert found["cut.png"].status == Status.UNREADABLE
    assert found["empty.png"].status == Status.UNREADABLE
    assert "0 bytes" in found["empty.png"].reason
    assert found["notazip.zip"].status == Status.UNREADABLE
    assert all(" at 0x" not in r.reason for r in found.values())


def test_zip_members_in_order_and_those_that_lead_out_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for value, name in enumerate(("b.png", "a.png", "../evil.png", "/abs.png", "C:\\x.png", "d/..\\..\\e.png")):
            archive.writestr(name, png(value))
    results = list(read_scans(tmp_path / "a.zip"))
    scans = [r.identity.member for r in results if isinstance(r, Scan)]
    assert scans == ["a.png", "b.png"]
    refused = [r for r in results if isinstance(r, Refusal)]
    assert len(refused) == 4
    assert {r.status for r in refused} == {Status.UNSAFE_PATH}


def test_a_bomb_is_refused_unopened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", b"\0" * (100 * 1024 * 1024))
    assert refusal(tmp_path / "bomb.zip").status == Status.TOO_LARGE


def test_a_damaged_member_costs_one_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png(10))
        archive.writestr("b.png", png(20))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(bytes(content))
    first, second = read_scans(tmp_path / "a.zip")
    assert isinstance(first, Refusal)
    assert isinstance(second, Scan)


def test_a_picture_with_a_zip_behind_it_is_the_picture(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inner.txt", "hello")
    (tmp_path / "a.png").write_bytes(png() + stream.getvalue())
    assert isinstance(only(tmp_path / "a.png"), Scan)


def test_two_members_of_one_name_are_both_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", png(10))
        archive.writestr("a.png", png(20))
    first, second = read_scans(tmp_path / "a.zip")
    assert isinstance(first, Scan)
    assert isinstance(second, Scan)
    assert first.pixels.max() < second.pixels.max()


def test_archives_that_are_odd_are_refused(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    assert "holds no file" in refusal(tmp_path / "empty.zip").reason
    with zipfile.ZipFile(tmp_path / "names.zip", "w") as archive:
        archive.writestr(".", b"x")
    assert refusal(tmp_path / "names.zip").status == Status.UNSAFE_PATH
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray((tmp_path / "locked.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    (tmp_path / "locked.zip").write_bytes(bytes(content))
    assert refusal(tmp_path / "locked.zip").status == Status.ENCRYPTED
    (tmp_path / "cut.zip").write_bytes(bytes(content[: len(content) // 2]))
    assert "damaged, or was not copied completely" in refusal(tmp_path / "cut.zip").reason


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_flipped_bytes_in_a_zip_never_raise(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", png(10))
    content = (tmp_path / "a.zip").read_bytes()
    rng = np.random.default_rng(method)
    for i in range(60):
        damaged = bytearray(content)
        damaged[int(rng.integers(4, len(content)))] ^= int(rng.integers(1, 256))
        (tmp_path / f"{i}.zip").write_bytes(bytes(damaged))
        assert list(read_scans(tmp_path / f"{i}.zip"))


def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").status == Status.NOT_AN_IMAGE


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(tmp_path).status == Status.UNSAFE_PATH


def test_sixteen_bit_tiff_with_white_as_zero_is_inverted(tmp_path: Path) -> None:
    image = Image.fromarray(np.linspace(0, 60000, 3000).astype(np.uint16).reshape(50, 60))
    image.save(tmp_path / "a.tif")
    image.save(tmp_path / "b.tif", tiffinfo={262: 0})
    plain, inverted = read_scans(tmp_path)
    assert isinstance(plain, Scan)
    assert isinstance(inverted, Scan)
    assert inverted.grayscale.inverted == "TIFF WhiteIsZero"
    np.testing.assert_allclose(inverted.pixels, 1 - plain.pixels, atol=1e-6)


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(png())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    refused = list(read_scans(tmp_path / "in"))
    assert [r.status for r in refused if isinstance(r, Refusal)] == [Status.UNSAFE_PATH] * 2
    assert len(refused) == 2


def test_equal_bytes_are_read_once_and_the_second_says_where_the_first_lies(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(5))
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("z.png", png(5))
    first, second = read_scans(tmp_path)
    assert isinstance(second, Refusal)
    assert second.status == Status.DUPLICATE
    assert second.reason == f"the same bytes as {tmp_path / 'x.png'}"
    assert first.identity.key == second.identity.key


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(read_scans(tmp_path / "nowhere"))


def test_pages_of_a_tiff_are_frames_and_too_many_are_refused(tmp_path: Path) -> None:
    first, *others = (Image.new("L", (8, 6), 10 * i) for i in range(5))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    assert [r.identity.frame for r in read_scans(tmp_path / "a.tif")] == [0, 1, 2, 3, 4]
    assert [r.identity.frame for r in read_scans(tmp_path / "a.tif", ReadConfig(frames="every 2"))] == [0, 2, 4]
    assert [r.identity.frame for r in read_scans(tmp_path / "a.tif", ReadConfig(frames="first"))] == [0]
    (refused,) = read_scans(tmp_path / "a.tif", ReadConfig(max_frames=4))
    assert isinstance(refused, Refusal)
    assert refused.status == Status.TOO_LARGE
    assert "5 scans, the limit is 4" in refused.reason


def test_unsigned_words_of_a_tiff_do_not_wrap(tmp_path: Path) -> None:
    values = np.linspace(0, 4e9, 3000).astype(np.uint32).reshape(50, 60)
    Image.fromarray(values.view(np.int32)).save(tmp_path / "a.tif")
    signed, unsigned = (np.array([339, 3, 1, 0, kind, 0], "<u2").tobytes() for kind in (2, 1))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes().replace(signed, unsigned))
    scan = only(tmp_path / "a.tif")
    assert isinstance(scan, Scan)
    assert (np.diff(scan.pixels.ravel()) >= 0).all()


def test_what_a_picture_file_asks_for_and_is_not_done_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (8, 6), 100).save(tmp_path / "a.jpg", exif=exif)
    scan = only(tmp_path / "a.jpg")
    assert isinstance(scan, Scan)
    assert scan.pixels.shape == (1, 6, 8)
    assert scan.grayscale.ignored == "EXIF orientation"
