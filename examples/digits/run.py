"""From nothing to a table: three models of handwritten digits, each run over all images by two workers.

    python examples/digits/run.py

1. Writes scikit-learn's 1,797 digits as a safetensors file, trains three small models of different quality, and
   registers them as versions 1, 2 and 3 of the model "digits".
2. Runs the command that it prints, ``batchmill run -m model.version=1,2,3 ...``, as you would in a shell.
3. Says where the outputs lie, reads them back and shows what the best version gets wrong.

Everything lies below one folder, ``runs/digits`` unless --dir says otherwise; delete it to start afresh.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import batchmill
from batchmill import client

MODEL = "digits"


@dataclass(frozen=True)
class Recipe:
    """How one version is made.

    Attributes:
        sizes: Features of each layer.
        images: Number of images that it learns from.
        epochs: Passes over them.
    """

    sizes: list[int]
    images: int
    epochs: int


RECIPES = [
    Recipe(sizes=[64, 10], images=60, epochs=20),
    Recipe(sizes=[64, 16, 10], images=300, epochs=80),
    Recipe(sizes=[64, 64, 10], images=1200, epochs=150),
]


def main() -> int:
    """Run the example; returns the exit code of ``batchmill run``."""
    parser = argparse.ArgumentParser(description="Three models of handwritten digits over 1,797 images.")
    parser.add_argument("--dir", type=Path, default=Path("runs/digits"), help="where everything goes")
    folder: Path = parser.parse_args().dir
    data, output = folder / "digits.safetensors", folder / "runs"
    images, labels = write_data(data)
    client.connect(str(output))
    for number, recipe in enumerate(RECIPES, start=1):
        model = train(recipe, images, labels)
        version = register(save(model, recipe, folder / "models" / str(number)))
        print(
            f"trained {version.model_name} version {version.version} on {recipe.images} images, layers {recipe.sizes}"
        )
    code = run_all_versions(data, output)
    if code == 0:
        tell_outputs(output)
    return code


def write_data(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the digits as one file of tensors, and return them.

    Returns:
        Images, float32 of shape (1797, 64) with values 0 to 1, and labels, int64 of shape (1797,).
    """
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"image": images, "label": labels}, path)
    print(f"wrote {len(images):,} images to {path}")
    return images, labels


def train(recipe: Recipe, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """Return a model trained on the first images; the same every time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads would add floats in another order
    layers: list[nn.Module] = []
    for inputs, outputs in zip(recipe.sizes, recipe.sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(recipe.epochs):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[: recipe.images]), labels[: recipe.images])
        loss.backward()
        optimizer.step()
    return model


def save(model: nn.Module, recipe: Recipe, folder: Path) -> Path:
    """Write what ``processor=torch_module`` loads: a registered builder with its arguments, and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"builder": "mlp", "args": {"sizes": recipe.sizes}}
    (folder / "model.json").write_text(json.dumps(described))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def register(folder: Path) -> batchmill.ModelVersion:
    """Return the files as the next version of the model; the same files again are the same version."""
    known = [model.name for model in client.list_models()]
    model = client.get_model(MODEL) if MODEL in known else client.create_model(MODEL)
    return model.register_version(folder)


def run_all_versions(data: Path, output: Path) -> int:
    """Run ``batchmill run`` on every version, two workers each; returns its exit code."""
    lines = [
        ["run", "-m", f"model.name={MODEL}", "model.version=1,2,3"],
        ["processor=torch_module", "processor.inputs=[image]", "processor.argmax=prediction", "processor.keep=[label]"],
        ["dataset=tensors", f"dataset.path={quoted(data)}", "batch_size=64"],
        ["reducers=[accuracy]", "launcher.nproc=2", f"output={quoted(output)}"],
    ]
    shown = " \\\n      ".join(shlex.join(line) for line in lines)
    print(f"\n  $ batchmill {shown}\n", flush=True)
    arguments = [argument for line in lines for argument in line]
    return subprocess.run([sys.executable, "-m", "batchmill", *arguments], check=False).returncode


def quoted(path: Path) -> str:
    """Return a path as Hydra reads it: in quotes if it has anything special."""
    text = str(path)
    if re.fullmatch(r"[\w./-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def tell_outputs(output: Path) -> None:
    """Say where the outputs lie, read those of the last version and show its first mistakes."""
    latest = client.get_model(MODEL).get_version("latest")
    run = output / latest.get_metrics("validation")[-1].run_id
    rows = batchmill.read_outputs(str(run))
    wrong = rows.filter(pc.not_equal(rows["prediction"], rows["label"]))
    print("Each run is a folder: outputs in parts/ (Parquet), metrics and the order of the parts in result.json.")
    print(f"\nVersion {latest.version} read back: batchmill.read_outputs({str(run)!r})")
    print(f"  {rows.num_rows:,} rows with columns {', '.join(rows.column_names)}; {wrong.num_rows} are wrong, such as")
    for row in wrong.slice(0, 3).to_pylist():
        print(f"    image {row['_index']}: a {row['label']}, taken for a {row['prediction']}")
    print(f"\nAll about the runs: batchmill ls --output {output}")


if __name__ == "__main__":
    sys.exit(main())
