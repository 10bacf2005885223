"""Play the digital twin's MEIs to the retina that it was trained on: do they drive the real cells?

    python scripts/play_back_digital_twin.py

For each neuron the twin's MEI is shown to the simulated retina. The table gives the response as a share of the
response to the cell's own MEI, found on the simulated retina itself under the same norm.
"""

import argparse

import torch

from mei_lightning import MeanReducer, NeuronObjective, find_meis, load_model


def main() -> None:
    """Print the share for each cell type."""
    parser = argparse.ArgumentParser(description="Play the digital twin's MEIs to the simulated retina.")
    parser.add_argument("--norm", type=float, default=30.0, help="L2 norm of each stimulus")
    parser.add_argument("--time-steps", type=int, default=40, help="frames of each stimulus")
    parser.add_argument("--neurons-per-type", type=int, help="use so many neurons of each type; all by default")
    arguments = parser.parse_args()

    retina, twin = load_model("simulated"), load_model("digital_twin")
    table = retina.neurons
    if arguments.neurons_per_type:
        table = table.groupby("type").head(arguments.neurons_per_type)
    neurons = list(zip(table["session"], table["index"].tolist(), strict=True))
    settings = {"norm": arguments.norm, "time_steps": arguments.time_steps}
    own = find_meis(retina, neurons, **settings)
    from_twin = find_meis(twin, neurons, **settings)

    objective = NeuronObjective(retina, neurons, MeanReducer())
    with torch.no_grad():
        response = objective(torch.from_numpy(from_twin["stimulus"].values)).numpy()
    table = table.assign(share=response / own["score"].values)
    by_type = table.groupby("type")["share"]
    summary = by_type.describe()[["count", "min", "50%"]].rename(columns={"50%": "median"})
    print(summary.assign(at_least_80_percent=by_type.apply(lambda share: (share >= 0.8).mean())).round(3).to_string())
    print(f"At least 80 % of the response to the cell's own MEI: {(table['share'] >= 0.8).mean():.1%} of neurons.")


if __name__ == "__main__":
    main()
