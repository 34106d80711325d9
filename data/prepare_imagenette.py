"""Put Imagenette at data/imagenette2-.../{train,val}/<wnid>/*.JPEG, with a label of what it is.

    python prepare_imagenette.py                  # download the full-size images (1.5 GB)
    python prepare_imagenette.py --size 160px     # or smaller ones (320px: 340 MB, 160px: 99 MB)
    python prepare_imagenette.py --from PATH      # a folder or tar that is on disk already
    python prepare_imagenette.py --from PATH --images 3000    # a part of it, all classes alike
    python prepare_imagenette.py --synthetic      # no network: 300 generated images, labelled so

Imagenette v2 has 9469 training and 3925 validation images of 10 classes. The label (label.txt
beside train/) goes into every row that is measured on the images.
"""

import argparse
import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import Imagenette

HERE = Path(__file__).resolve().parent
WNIDS = (
    "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 "
    "n03888257"
).split()
COUNTS = {"train": 9469, "val": 3925}
FOLDERS = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
# Width, height and bytes of generated images: those of Imagenette's full-size and 224-pixel JPEGs.
SYNTHETIC = {"full": (500, 375, 110_000), "224": (224, 224, 10_000)}
SYNTHETIC_COUNTS = {"train": 24, "val": 6}  # a class
# What is not complete yet lies in a folder that no training script takes for images.
UNFINISHED = ".imagenette2-unfinished-"


class DataError(Exception):
    """Data that is not available or not usable; the message says why and what to do."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from", dest="source", type=Path, help="folder or tar with train and val")
    source.add_argument("--synthetic", action="store_true", help="generate images, no network")
    parser.add_argument(
        "--size",
        choices=[*FOLDERS, "224"],
        default="full",
        help="which images to download, or (full, 224) to generate; default: full",
    )
    parser.add_argument("--images", type=int, help="with --from: keep about so many, 20 or more")
    parser.add_argument("--output", type=Path, default=HERE, help="default: the folder data")
    args = parser.parse_args()
    if args.size not in (SYNTHETIC if args.synthetic else FOLDERS):
        parser.error("--size 224 is for --synthetic alone, 320px and 160px are for the download")
    if args.images is not None and (args.images < 20 or not args.source):
        parser.error("--images is for --from, and 20 or more: one for each class and split")
    return args


def is_there(target: Path) -> bool:
    """Whether there are images of this name already; says so."""
    if target.exists():
        print(f"{target} is there already, and stays as it is: remove it for another")
    return target.exists()


def download(args: argparse.Namespace) -> Path:
    """Imagenette from its publisher, through torchvision, which checks the archive's checksum."""
    target = args.output / FOLDERS[args.size]
    if is_there(target):
        return target
    with tempfile.TemporaryDirectory(dir=args.output, prefix=UNFINISHED) as scratch:
        try:
            Imagenette(scratch, size=args.size, download=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"the download failed ({reason}): use --from PATH with a copy that is on disk, or "
                "--synthetic to generate images"
            ) from None
        Path(scratch, target.name).rename(target)
    return target


def unpack(source: Path, scratch: Path) -> Path:
    """The folder that holds train and val, of a folder or a tar: at its top or one folder down."""
    if not source.exists():
        raise DataError(f"{source} does not exist: --from takes a folder or a tar")
    top = source
    if source.is_file():
        top = scratch / source.name.split(".")[0]
        try:
            with tarfile.open(source) as archive:
                archive.extractall(top, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            reason = (str(error).splitlines() or ["cut short"])[0].rstrip(": ")
            raise DataError(f"{source} cannot be unpacked: {reason}") from None
    for root in (top, *sorted(top.iterdir())):
        if (root / "train").is_dir():
            return root
    raise DataError(f"{source} holds no folder train: it should hold train/<wnid>/*.JPEG")


def take(args: argparse.Namespace) -> Path:
    """A copy of the images in a folder or tar; of so many images, the first of each class."""
    with tempfile.TemporaryDirectory(dir=args.output, prefix=UNFINISHED) as scratch:
        root = unpack(args.source, Path(scratch))
        total = len(list(root.rglob("*.JPEG"))) or 1
        part = (args.images or total) / total

        def leave(_: str, names: list[str]) -> list[str]:
            pictures = sorted(name for name in names if name.endswith(".JPEG"))
            return pictures[max(1, round(len(pictures) * part)) :]

        name = root.resolve().name
        if not name.startswith("imagenette2"):
            name = f"imagenette2-{name}"
        target = args.output / (f"{name}-{args.images}" if args.images else name)
        if not is_there(target):
            ready = Path(scratch, "ready")
            shutil.copytree(root, ready, ignore=leave)
            ready.rename(target)
    return target


def photograph(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise with the 1/f amplitude spectrum of photographs: to a JPEG decoder it is one."""
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    amplitude = 1 / np.maximum(frequencies, 1 / max(width, height))
    planes = []
    for contrast in (50, 15, 15):  # brightness, and two colour differences with less contrast
        phase = np.exp(2j * np.pi * generator.random(amplitude.shape))
        plane = np.fft.irfft2(amplitude * phase, s=(height, width))
        plane = 128 + contrast * (plane - plane.mean()) / plane.std()
        planes.append(Image.fromarray(plane.clip(0, 255).astype(np.uint8)))
    return Image.merge("YCbCr", planes)


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def generate(args: argparse.Namespace) -> Path:
    """Images in Imagenette's layout, as large as its JPEGs in pixels and in bytes."""
    target = args.output / f"imagenette2-{args.size}-synthetic"
    if is_there(target):
        return target
    width, height, size = SYNTHETIC[args.size]
    generator = np.random.default_rng(0)
    sample = photograph(generator, width, height)
    quality = min(range(5, 96), key=lambda quality: abs(len(jpeg(sample, quality)) - size))
    with tempfile.TemporaryDirectory(dir=args.output, prefix=UNFINISHED) as scratch:
        ready = Path(scratch, "ready")
        for split, count in SYNTHETIC_COUNTS.items():
            for wnid in WNIDS:
                folder = ready / split / wnid
                folder.mkdir(parents=True)
                for number in range(count):
                    image = photograph(generator, width, height)
                    (folder / f"synthetic_{number:04d}.JPEG").write_bytes(jpeg(image, quality))
        ready.rename(target)
    return target


def check_split(folder: Path) -> tuple[int, set[tuple[int, int]]]:
    """Check the ten classes of train or val; how many images there are, and some of their sizes."""
    if sorted(path.name for path in folder.glob("*") if path.is_dir()) != WNIDS:
        raise DataError(f"{folder} does not have Imagenette's ten classes: remove it")
    count, sizes = 0, set()
    for wnid in WNIDS:
        images = sorted((folder / wnid).glob("*.JPEG"))
        if not images:
            raise DataError(f"{folder / wnid} holds no JPEG: remove {folder.parent}")
        count += len(images)
        sizes |= {Image.open(path).size for path in images[:6]}
    return count, sizes


def label_of(folder: Path) -> str:
    """Check what is there, and say exactly what it is, as a label."""
    counts, sizes = {}, set()
    for split in COUNTS:
        counts[split], some = check_split(folder / split)
        sizes |= some
    if "-synthetic" in folder.name:
        return f"{folder.name} (stand-in, not Imagenette)"
    shortest = {min(size) for size in sizes}
    kind = "full size"
    if len(shortest) == 1:
        kind = "resized" if len(sizes) == 1 else f"shortest side {shortest.pop()}"
    if counts != COUNTS:
        kind += f", {sum(counts.values())} of {sum(COUNTS.values())} images"
    return f"{folder.name} ({kind})"


def main() -> None:
    args = parse_arguments()
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        if args.source:
            folder = take(args)
        else:
            folder = generate(args) if args.synthetic else download(args)
        label = label_of(folder)
        (folder / "label.txt").write_text(label + "\n")
    except DataError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = f"{error.filename}: {error.strerror}"
        sys.exit(f"error: {where if error.filename else error}")
    print(f"{label} is in {folder}")


if __name__ == "__main__":
    main()
