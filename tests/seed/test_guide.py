"""The code blocks of the seed's guide, step by step, as one program; only the import lines are Batchmill's.

Where the guide downloads CIFAR10, synthetic images of the same shape stand in; its ``transforms`` are a function.
"""

import os
import pathlib

import pytest
import torch

# The import lines: `from determined.experimental import client` and `determined.pytorch.experimental` become these.
from batchmill import MetricReducer, TorchBatchProcessor, client, read_outputs, torch_batch_process

CLASSES = 10


class CIFAR10(torch.utils.data.Dataset):
    """Stands in for ``torchvision.datasets.CIFAR10(root, train, download, transform)``."""

    def __init__(self, root, train, download, transform):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(200, 3, 32, 32, generator=generator)
        self.labels = torch.randint(0, CLASSES, (200,), generator=generator)
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


class AccuracyMetricReducer(MetricReducer):
    def __init__(self):
        self.reset()

    def reset(self):
        self.right, self.seen = 0, 0

    def update(self, predictions, labels):
        self.right += int((predictions == labels).sum())
        self.seen += len(labels)

    def per_slot_reduce(self):
        return self.right, self.seen

    def cross_slot_reduce(self, per_slot_metrics):
        rights, seens = zip(*per_slot_metrics, strict=True)
        return sum(rights) / sum(seens)


def get_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, CLASSES))


def initialize_dataset():
    # Step 3: Initialize the Dataset
    def transform(image):
        return (image - 0.5) / 0.5

    return CIFAR10(root="/data", train=False, download=True, transform=transform)


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_usage(output):
    class MyProcessor(TorchBatchProcessor):
        def __init__(self, context):
            self.reducer = context.wrap_reducer(reducer=AccuracyMetricReducer(), name="accuracy")

        def process_batch(self, batch, batch_idx):
            self.reducer.update(batch[1], batch[1])

    dataset = initialize_dataset()
    result = torch_batch_process(
        batch_processor_cls=MyProcessor,  # the guide forgets this comma
        dataset=dataset,
    )
    assert result.complete
    assert result.metrics == {"accuracy": 1.0}


def test_steps_one_to_five(output):
    # What the guide takes for granted: a model with a version, and a checkpoint.
    os.makedirs("trained")
    torch.save(get_model().state_dict(), "trained/weights.pt")
    model = client.create_model("cifar")
    checkpoint = client.add_checkpoint("trained")
    model.register_version(checkpoint.uuid)

    # Step 1: Define an InferenceProcessor
    class InferenceProcessor(TorchBatchProcessor):
        def __init__(self, context):
            self.context = context
            self.model = context.prepare_model_for_inference(get_model())
            self.output = []
            self.last_index = 0
            self.rank = context.get_distributed_rank()  # used in step 5, and never set in the guide

            # Step 2: Link the Run to a Checkpoint or Model Version
            hparams = self.context.get_hparams()

            # Model Version
            model = client.get_model(hparams.get("model_name"))
            model_version = model.get_version(hparams.get("model_version"))
            self.context.report_task_using_model_version(model_version)

            # Or Checkpoint
            ckpt = client.get_checkpoint(hparams.get("checkpoint_uuid"))
            self.context.report_task_using_checkpoint(ckpt)

        def process_batch(self, batch, batch_idx) -> None:
            model_input = batch[0]
            model_input = self.context.to_device(model_input)

            with torch.no_grad():
                with self.profiler as p:
                    pred = self.model(model_input)
                    p.step()
                    output = {"predictions": pred, "input": batch}
                    self.output.append(output)

            self.last_index = batch_idx

        def on_checkpoint_start(self):
            """During checkpoint, we persist prediction result."""
            if len(self.output) == 0:
                return
            file_name = f"prediction_output_{self.last_index}"
            with self.context.upload_path() as path:
                file_path = pathlib.Path(path, file_name)
                torch.save(self.output, file_path)

            self.output = []

        # Step 5: Send and Query Custom Inference Metrics
        def on_finish(self):
            self.context.report_metrics(
                group="inference",
                steps_completed=self.rank,
                metrics={
                    "my_metric": 1.0,
                },
            )

    dataset = initialize_dataset()

    # Step 4: Pass the InferenceProcessor Class and Dataset
    result = torch_batch_process(
        InferenceProcessor,
        dataset,
        batch_size=64,
        checkpoint_interval=10,
        hparams={"model_name": "cifar", "model_version": 1, "checkpoint_uuid": checkpoint.uuid},
    )

    # Step 5, afterwards, from the SDK. Checkpoint
    ckpt = client.get_checkpoint(checkpoint.uuid)
    (of_checkpoint,) = ckpt.get_metrics("inference")

    # Or Model Version
    model = client.get_model("cifar")
    model_version = model.get_version(1)
    (of_version,) = model_version.get_metrics("inference")

    assert of_checkpoint.metrics == of_version.metrics == {"my_metric": 1.0}
    assert (of_version.run_id, of_version.steps_completed) == (result.run_id, 0)
    uploaded = sorted(pathlib.Path(result.path, "files").rglob("prediction_output_*"), key=lambda file: file.name)
    predictions = [batch["predictions"] for file in uploaded for batch in torch.load(file, weights_only=True)]
    with torch.no_grad():
        expected = get_model()(torch.stack([dataset[index][0] for index in range(len(dataset))]))
    assert torch.allclose(torch.cat(predictions), expected, atol=1e-5)
    assert read_outputs(result).num_rows == 0  # the seed's style: process_batch returns None


def test_the_profiler_of_step_one_records_when_asked(output):
    class Profiled(TorchBatchProcessor):
        def __init__(self, context):
            self.context = context
            self.model = context.prepare_model_for_inference(get_model())

        def process_batch(self, batch, batch_idx):
            with self.profiler as p:
                self.model(batch[0])
                p.step()

    result = torch_batch_process(Profiled, initialize_dataset(), batch_size=16, profile=True)
    (trace,) = pathlib.Path(result.path, "tensorboard").rglob("*.pt.trace.json")
    assert "aten::" in trace.read_text()
