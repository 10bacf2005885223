"""The MEI of one neuron: a script to read, copy and edit.

python scripts/optimize_mei.py --model digital_twin --session session_1 --neuron 0
"""

import argparse

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from mei_lightning import (
    IncreaseObjective,
    MeanReducer,
    NormAndRange,
    RowConvergence,
    StepProgressBar,
    StimulusLogger,
    StimulusModule,
    load_model,
    save_stimulus_to_mp4_video,
)


def main() -> None:
    """Optimise one stimulus for one neuron."""
    parser = argparse.ArgumentParser(description="The MEI of one neuron.")
    parser.add_argument("--model", default="digital_twin", help="digital_twin, simulated, or openretina:NAME")
    parser.add_argument("--session", default="session_1", help="the neuron's recording session")
    parser.add_argument("--neuron", type=int, default=0, help="the neuron's index in its session")
    parser.add_argument("--time-steps", type=int, default=40, help="frames of the stimulus")
    parser.add_argument("--norm", type=float, default=30.0, help="L2 norm of the stimulus in the model's units")
    parser.add_argument("--max-steps", type=int, default=100, help="stop after so many steps at the latest")
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    objective = IncreaseObjective(model, arguments.neuron, arguments.session, MeanReducer())
    noise = torch.randn(model.stimulus_shape(arguments.time_steps), generator=torch.Generator().manual_seed(0))
    module = StimulusModule(objective, noise, constraint=NormAndRange(arguments.norm))

    logger = TensorBoardLogger("logs", name="mei", default_hp_metric=False)
    trainer = Trainer(
        max_steps=arguments.max_steps,
        max_epochs=-1,
        devices=1,
        logger=logger,
        callbacks=[
            RowConvergence(),
            StimulusLogger(),
            StepProgressBar(),
            ModelCheckpoint(monitor="score/mean", mode="max"),
        ],
        log_every_n_steps=1,
        enable_model_summary=False,
    )
    trainer.fit(module)

    video = f"{logger.log_dir}/mei.mp4"
    save_stimulus_to_mp4_video(module.best_stimulus[0], video, stimulus_format=model.stimulus_format)
    print(f"Response {module.best_score.item():.3f} after {module.steps.item()} steps. Video: {video}")


if __name__ == "__main__":
    main()
