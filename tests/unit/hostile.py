"""How a small valid source of each kind of data is written, and the ways in which it is then spoiled.

To add a kind, add an entry to `VALID`: some lines that write such a source, and what is wrong in ways of its own.
Further entries of a kind, for other containers, have more words behind its name.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Valid:
    """A small valid source of a kind.

    Args:
        write: (folder, count) writes `count` valid samples into an empty folder and returns the files, of which the
            first one is spoiled.
        each: a file holds one sample, so that a spoiled one may be left out; else one holds them all.
        whole: the source is the folder; else its first file.
        wrong: what is wrong in ways of its own, each a function of the files of a valid source that spoils the first:
            "dtype", "shape" (a wrong number of columns, channels or axes), "rate", "nan", "inf", "names" (that do not
            match the metadata).
        bears: cases that are no fault, and why: text without its end is a text.
        gaps: values in a batch may be NaN, which means missing (a cell, a point of a smaller cloud).
        asked: the kind has to be asked for by name.
        count: samples of a valid source.
    """

    write: Callable[[Path, int], list[Path]]
    wrong: dict[str, Callable[[list[Path]], None]]
    each: bool = False
    whole: bool = False
    bears: dict[str, str] = field(default_factory=dict)
    gaps: bool = False
    asked: bool = False
    count: int = 24

    def spec(self, root: Path, files: list[Path]) -> Path:
        return root if self.each or self.whole else files[0]


def rng(n: int = 0) -> np.random.Generator:
    return np.random.default_rng([n, 11])


# Ways to spoil a file of any kind.


def emptied(files: list[Path]) -> None:
    files[0].write_bytes(b"")


def zeroed(files: list[Path]) -> None:
    files[0].write_bytes(b"\0" * 512)


def truncated(files: list[Path]) -> None:
    data = files[0].read_bytes()
    files[0].write_bytes(data[: len(data) * 2 // 5])


def pickled(files: list[Path]) -> None:
    files[0].write_bytes(pickle.dumps({"x": [1.0, 2.0], "y": "abc"}, protocol=4))


def scrambled(files: list[Path]) -> None:
    files[0].write_bytes(bytes(rng().integers(128, 256, 700, dtype=np.uint8)))


def unreadable(files: list[Path]) -> None:
    files[0].chmod(0)


SPOILS = {"zero bytes": emptied, "only zeros": zeroed, "truncated": truncated, "a pickle": pickled,
          "noise": scrambled, "no permission": unreadable}  # fmt: skip
OWN = ("dtype", "shape", "rate", "nan", "inf", "names")


# Writers.


def text_file(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def cell(column: int, value: str, row: int = 2) -> Callable[[list[Path]], None]:
    """Puts a value into a cell of a comma-separated file."""

    def spoil(files: list[Path]) -> None:
        lines = files[0].read_text().splitlines()
        cells = lines[row].split(",")
        cells[column] = value
        lines[row] = ",".join(cells)
        text_file(files[0], lines)

    return spoil


def extra_cell(files: list[Path]) -> None:
    lines = files[0].read_text().splitlines()
    text_file(files[0], [*lines[:2], lines[2] + ",7", *lines[3:]])


def no_columns(files: list[Path]) -> None:
    """Only the first column is left."""
    text_file(files[0], [line.partition(",")[0] for line in files[0].read_text().splitlines()])


def lost_names(files: list[Path]) -> None:
    """metadata.csv names files that are not there."""
    rows = [f"lost{n}{files[0].suffix},{n % 2}" for n in range(4)]
    text_file(files[0].parent / "metadata.csv", ["file_name,label", *rows])


def images(root: Path, count: int) -> list[Path]:
    from PIL import Image

    files = [root / f"{n}.png" for n in range(count)]
    for n, file in enumerate(files):
        Image.fromarray(rng(n).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    return files


def small_image(files: list[Path]) -> None:
    from PIL import Image

    Image.new("RGB", (1, 1)).save(files[0])


def tiff(value: float) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        import tifffile

        x = rng().random((16, 16)).astype(np.float32)
        x[3, 4] = value
        tifffile.imwrite(files[0].with_suffix(".tif"), x)
        for file in files:
            file.unlink()
        tifffile.imwrite(files[1].with_suffix(".tif"), rng(1).random((16, 16)).astype(np.float32))

    return spoil


def clouds(root: Path, count: int) -> list[Path]:
    return [text_file(root / f"{n}.xyz", [" ".join(f"{v:.4f}" for v in p) for p in rng(n).normal(size=(60, 3))])
            for n in range(count)]  # fmt: skip


def sweeps(root: Path, count: int) -> list[Path]:
    files = [root / f"{n:06d}.bin" for n in range(count)]
    for n, file in enumerate(files):
        sweep(n).tofile(file)
    return files


def sweep(n: int) -> np.ndarray:
    flat, more = rng(n).uniform(-40, 40, (900, 2)), rng(n)
    return np.column_stack([flat, more.normal(-1.7, 0.1, 900), more.random(900)]).astype("f4")


def sweep_value(value: float) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        x = sweep(0)
        x[5:400, 0] = value
        x.tofile(files[0])

    return spoil


def graphs(root: Path, count: int) -> list[Path]:
    nodes = [f"n{n},{a:.3f},{b:.3f}" for n, (a, b) in enumerate(rng().normal(size=(count, 2)))]
    edges = [f"n{n},n{(n + 1) % len(nodes)}" for n in range(len(nodes))]
    return [text_file(root / "nodes.csv", ["id,a,b", *nodes]), text_file(root / "edges.csv", ["source,target", *edges])]


def lost_node(files: list[Path]) -> None:
    cell(0, "nobody")(files[1:])


def tables(root: Path, count: int) -> list[Path]:
    rows = rng().normal(size=(count, 3))
    return [text_file(root / "a.csv", ["a,b,c", *(",".join(f"{v:.4f}" for v in row) for row in rows)])]


def stays(root: Path, count: int) -> list[Path]:
    rows = [f"{stay},{10 * n},{code},{value:.3f}" for stay in range(count) for n, (code, value) in enumerate(
            zip(("HR", "Age", "Temp", "HR"), rng(stay).normal(80, 9, 4)))]  # fmt: skip
    outcomes = [f"{stay},{stay % 2}" for stay in range(count)]
    return [text_file(root / "a.csv", ["stay_id,minutes,code,value", *rows]),
            text_file(root / "outcomes.csv", ["stay_id,death", *outcomes])]  # fmt: skip


def other_stays(files: list[Path]) -> None:
    text_file(files[1], ["stay_id,death", "901,0", "902,1"])


def dated(root: Path, count: int) -> list[Path]:
    rows = rng().normal(size=(count, 2))
    days = [np.datetime64("2020-01-01") + n for n in range(len(rows))]
    return [text_file(root / "a.csv", ["date,a,b", *(f"{day},{a:.4f},{b:.4f}" for day, (a, b) in zip(days, rows))])]


def texts(root: Path, count: int) -> list[Path]:
    from anymask.data.kinds.text import made_up

    return [text_file(root / "a.csv", ["text,label", *(f"{t},{n % 2}" for n, t in enumerate(made_up(count, 1)))])]


def sequences(kind: str, name: str) -> Callable[[Path, int], list[Path]]:
    def write(root: Path, count: int) -> list[Path]:
        from anymask.data.kind import kind_of

        made = kind_of(kind).made_up(count, 1)  # type: ignore[attr-defined]
        return [text_file(root / "a.csv", [f"{name},target", *(f"{t},{n / 7:.3f}" for n, t in enumerate(made))])]

    return write


def paragraphs(root: Path, count: int) -> list[Path]:
    from anymask.data.kinds.text import made_up

    return [text_file(root / "a.txt", made_up(count, 1))]


def json_lines(root: Path, count: int) -> list[Path]:
    from anymask.data.kinds.text import made_up

    rows = [{"text": text, "label": n % 2} for n, text in enumerate(made_up(count, 1))]
    return [text_file(root / "a.jsonl", [json.dumps(row) for row in rows])]


def parquet(root: Path, count: int) -> list[Path]:
    import pandas

    pandas.DataFrame(rng().normal(size=(count, 3)), columns=list("abc")).to_parquet(root / "a.parquet")
    return [root / "a.parquet"]


def fasta(root: Path, count: int) -> list[Path]:
    from anymask.data.kind import kind_of

    made = kind_of("protein").made_up(count, 1)  # type: ignore[attr-defined]
    return [text_file(root / "a.fasta", [line for n, chain in enumerate(made) for line in (f">p{n}", chain)])]


def flip(root: Path, count: int) -> list[Path]:
    """Labels of residues, in a file beside the sequences."""
    (file,) = fasta(root, count)
    lines = file.rename(root / "sequences.fasta").read_text().splitlines()
    labels = [line if line.startswith(">") else "HEC" * (len(line) // 3) + "C" * (len(line) % 3) for line in lines]
    return [text_file(root / "sampled.fasta", labels), root / "sequences.fasta"]


def smi(root: Path, count: int) -> list[Path]:
    from anymask.data.kind import kind_of

    made = kind_of("molecule").made_up(count, 1)  # type: ignore[attr-defined]
    return [text_file(root / "a.smi", [f"{one} m{n}" for n, one in enumerate(made)])]


def archive(root: Path, count: int) -> list[Path]:
    """Series of the UCR archive."""
    rows = [",".join(f"{v:.4f}" for v in row) + f":{n % 2}" for n, row in enumerate(rng().normal(size=(count, 12)))]
    head = ["@problemName a", "@timeStamps false", "@missing false", "@univariate true", "@equalLength true",
            "@seriesLength 12", "@classLabel true 0 1", "@data"]  # fmt: skip
    return [text_file(root / "a.ts", [*head, *rows])]


def sounds(root: Path, count: int) -> list[Path]:
    return [sound(root / f"{n}.wav", rng(n).normal(0, 0.1, 4_000)) for n in range(count)]


def sound(path: Path, x: np.ndarray, rate: int = 8_000) -> Path:
    import soundfile

    soundfile.write(path, x.astype(np.float32), rate, subtype="FLOAT")
    return path


def heard(rate: int = 8_000, value: float = 0.1) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        x = rng().normal(0, 0.1, 4_000)
        x[100:200] = value
        sound(files[0], x, rate)

    return spoil


def videos(root: Path, count: int) -> list[Path]:
    from video_tools import shades, write

    return [write(root / f"{n}.mp4", shades(20, step=4 + n)) for n in range(count)]


def volumes(root: Path, count: int) -> list[Path]:
    return [volume(root / f"{n}.nii.gz", body(n)) for n in range(count)]


def body(n: int) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in (36, 40, 32)], indexing="ij"))
    return np.where((grid**2).sum(0) < 0.9, 100 + rng(n).normal(size=grid.shape[1:]), 0).astype(np.float32)


def volume(path: Path, values: np.ndarray) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def voxels(value: float) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        values = body(0)
        values[10:14, 12:20, 8:12] = value
        volume(files[0], values)

    return spoil


def scenes(root: Path, count: int) -> list[Path]:
    return [geotiff(root / f"{n}.tif", rng(n).integers(1, 3_000, (24, 24, 6), dtype=np.uint16)) for n in range(count)]


def geotiff(path: Path, values: np.ndarray) -> Path:
    import tifffile

    tags = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)]
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", extratags=tags, metadata=None)
    return path


def seen(bands: int, value: float) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        values = rng().random((24, 24, bands)).astype(np.float32)
        values[3:6, 4] = value
        geotiff(files[0], values)

    return spoil


def skeletons(root: Path, count: int) -> list[Path]:
    files = [root / f"{n}.npy" for n in range(count)]
    for n, file in enumerate(files):
        np.save(file, rng(n).normal(size=(16 + n, 5, 3)).astype(np.float32))
    text_file(root / "metadata.csv", ["file_name,label", *(f"{file.name},{n % 2}" for n, file in enumerate(files))])
    return files


def moved(shape: tuple[int, ...], value: object, dtype: object = np.float32) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        x = rng().normal(size=shape).astype(dtype)  # type: ignore[call-overload]
        x.reshape(-1)[7] = value
        np.save(files[0], x, allow_pickle=True)

    return spoil


def crossings(root: Path, count: int) -> list[Path]:
    """Three scenes of one walker, whose windows of 20 steps are the samples."""
    files = [root / f"{n}.txt" for n in range(3 if count > 1 else 1)]
    for n, file in enumerate(files):
        steps = range(19 + -(-count // len(files)))
        text_file(file, [f"{10 * t}.0\t1.0\t{0.4 * t + n:.3f}\t{0.02 * t * t:.3f}" for t in steps])
    return files


def hearts(root: Path, count: int, suffix: str = ".hea") -> list[Path]:
    """A record of two leads; the file with such an ending comes first."""
    import wfdb

    values = np.sin(np.arange(2_000 + 1_500 * count) / 8)[:, None] * [1.0, 0.5]
    how = dict(units=["mV"] * 2, sig_name=["II", "V1"], fmt=["16"] * 2, write_dir=str(root))
    wfdb.wrsamp("r", fs=250, p_signal=values, **how)
    return sorted(root.glob("r.*"), key=lambda file: file.suffix != suffix)


def depths(root: Path, count: int) -> list[Path]:
    from PIL import Image

    files = [root / f"{n}.png" for n in range(count)]
    for n, file in enumerate(files):
        Image.fromarray(rng(n).integers(0, 5_000, (16, 16), dtype=np.uint16)).save(file)
    return files


def classmaps(root: Path, count: int) -> list[Path]:
    from PIL import Image

    files = [root / f"{n}.png" for n in range(count)]
    for n, file in enumerate(files):
        Image.fromarray(rng(n).integers(0, 4, (16, 16), dtype=np.uint8)).save(file)
    return files


def coloured(files: list[Path]) -> None:
    from PIL import Image

    Image.fromarray(rng().integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(files[0])


def line(number: int, words: str) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        lines = files[0].read_text().splitlines()
        text_file(files[0], [*lines[:number], words, *lines[number + 1 :]])

    return spoil


WHOLE_ROWS = "a shorter table is one"  # and a last number that was cut short cannot be told
LENGTHS = "series may vary in length"
MISSING = "means a missing cell"
VALID: dict[str, Valid] = {
    "image": Valid(
        images, each=True, count=5, bears={"shape": "a small picture is scaled up"},
        wrong={"shape": small_image, "nan": tiff(np.nan), "inf": tiff(np.inf), "names": lost_names},
    ),
    "points": Valid(
        clouds, each=True, count=5, bears={"truncated": "fewer points are a cloud"},
        wrong={"dtype": line(2, "a b c"), "shape": line(2, "1 2"), "nan": line(2, "nan 1 2"), "inf": line(2, "inf 1 2"),
               "names": lost_names},
    ),
    "lidar": Valid(
        sweeps, each=True, count=3, gaps=True, bears={"truncated": "fewer points are a sweep"},
        wrong={"shape": lambda files: files[0].write_bytes(files[0].read_bytes()[:-3]), "nan": sweep_value(np.nan),
               "inf": sweep_value(np.inf)},
    ),
    "graph": Valid(
        graphs, whole=True,
        wrong={"dtype": cell(1, "red"), "shape": extra_cell, "nan": cell(1, "nan"), "inf": cell(1, "inf"),
               "names": lost_node},
    ),
    "table": Valid(
        tables, gaps=True, bears={"nan": MISSING, "truncated": WHOLE_ROWS},
        wrong={"dtype": cell(1, "red"), "shape": no_columns, "nan": cell(1, "nan"), "inf": cell(1, "inf")},
    ),
    "series": Valid(
        dated, count=120, gaps=True, bears={"nan": MISSING, "truncated": WHOLE_ROWS},
        wrong={"dtype": cell(1, "red"), "shape": extra_cell, "rate": cell(0, "2020-01-01"), "nan": cell(1, "nan"),
               "inf": cell(1, "inf")},
    ),
    "ehr": Valid(
        stays, whole=True, gaps=True, bears={"nan": "means a missing value", "truncated": "fewer rows are a table"},
        wrong={"dtype": cell(3, "red"), "shape": extra_cell, "rate": cell(1, "soon"), "nan": cell(3, "nan"),
               "inf": cell(3, "inf"), "names": other_stays},
    ),
    "text": Valid(
        texts, bears={"truncated": WHOLE_ROWS, "nan": MISSING, "dtype": "a column of texts needs no other"},
        wrong={"dtype": no_columns, "shape": extra_cell, "nan": cell(0, "nan")},
    ),
    "protein": Valid(
        sequences("protein", "sequence"), bears={"nan": "means a missing target", "truncated": WHOLE_ROWS},
        wrong={"dtype": cell(0, "M1KV"), "shape": extra_cell, "nan": cell(1, "nan"), "inf": cell(1, "inf")},
    ),
    "molecule": Valid(
        sequences("molecule", "smiles"), bears={"nan": "means a missing target", "truncated": WHOLE_ROWS},
        wrong={"dtype": cell(0, "CC(("), "shape": extra_cell, "nan": cell(1, "nan"), "inf": cell(1, "inf")},
    ),
    "audio": Valid(
        sounds, each=True, count=5, gaps=True,
        bears={"rate": "it is resampled, and a note says so", "truncated": "a shorter sound is one"},
        wrong={"rate": heard(rate=44_100), "nan": heard(value=np.nan), "inf": heard(value=np.inf), "names": lost_names},
    ),
    "video": Valid(videos, each=True, count=4, wrong={"names": lost_names}),
    "volume": Valid(
        volumes, each=True, count=3, gaps=True, bears={"nan": "means no scan"},
        wrong={"shape": lambda files: volume(files[0], body(0)[:, :, 5]) and None, "nan": voxels(np.nan),
               "inf": voxels(np.inf), "names": lost_names},
    ),
    "satellite": Valid(
        scenes, each=True, count=5, gaps=True, bears={"nan": "means no data"},
        wrong={"shape": seen(4, 0.5), "nan": seen(6, np.nan), "inf": seen(6, np.inf), "names": lost_names},
    ),
    "skeleton": Valid(
        skeletons, each=True, count=5, gaps=True, asked=True, bears={"nan": "means a missing joint"},
        wrong={"dtype": moved((16, 5, 3), {}, object), "shape": moved((16, 4, 3), 0.0),
               "nan": moved((16, 5, 3), np.nan), "inf": moved((16, 5, 3), np.inf), "names": lost_names},
    ),
    "trajectory": Valid(
        crossings, whole=True, gaps=True, bears={"truncated": "fewer steps are a scene"},
        wrong={"dtype": line(2, "20.0\tred\t0.8\t0.1"), "shape": line(2, "20.0\t1.0\t0.8"),
               "rate": line(2, "20.0\t1.0\t0.8\t0.1\n20.0\t1.0\t0.9\t0.1"), "nan": line(2, "20.0\t1.0\tnan\t0.1"),
               "inf": line(2, "20.0\t1.0\tinf\t0.1")},
    ),
    "ecg": Valid(
        hearts, whole=True, gaps=True, bears={},
        wrong={"dtype": line(1, "r.dat red 200(0)/mV 16 0 0 0 0 II"), "shape": line(2, ""),
               "rate": line(0, "r 2 0 20000")},
    ),
    "depth": Valid(depths, each=True, count=5, asked=True, gaps=True, wrong={"shape": coloured, "names": lost_names}),
    "classmap": Valid(classmaps, each=True, count=5, asked=True, wrong={"shape": coloured, "names": lost_names}),
    # Other containers of the same kinds.
    "ecg .dat": Valid(lambda root, count: hearts(root, count, ".dat"), whole=True, gaps=True, wrong={}),
    "text .txt": Valid(paragraphs, bears={"truncated": WHOLE_ROWS}, wrong={}),
    "text .jsonl": Valid(json_lines, wrong={"dtype": line(2, '{"text": 7, "label": 1}'), "shape": line(2, "[1, 2]")},
                         bears={"dtype": "a number is a text, too"}),
    "table .parquet": Valid(parquet, wrong={}),
    "series .ts": Valid(archive, gaps=True, bears={"truncated": WHOLE_ROWS, "nan": MISSING, "shape": LENGTHS}, wrong={
        "dtype": line(10, "red,1:0"), "shape": line(10, "1,2:0"), "nan": line(10, "?" + ",1" * 11 + ":0"),
        "inf": line(10, "inf" + ",1" * 11 + ":0"), "names": line(10, "1" + ",1" * 11 + ":7"),
    }),
    "protein .fasta": Valid(fasta, bears={"truncated": WHOLE_ROWS}, wrong={"dtype": line(1, "M1KV")}),
    "protein FLIP": Valid(flip, whole=True, wrong={"shape": line(1, "HH"), "names": line(0, ">nobody")},
                          bears={"truncated": WHOLE_ROWS}),
    "molecule .smi": Valid(smi, bears={"truncated": WHOLE_ROWS}, wrong={"dtype": line(1, "CC(( m1")}),
}  # fmt: skip
