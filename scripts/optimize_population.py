"""The MEIs of many neurons in one run: a script to read, copy and edit.

python scripts/optimize_population.py --model digital_twin --type color_opponent
"""

import argparse

from mei_lightning import NeuronSelection, find_meis, load_model


def main() -> None:
    """Optimise a stimulus for each neuron of some sessions and a cell type."""
    parser = argparse.ArgumentParser(description="The MEIs of many neurons.")
    parser.add_argument("--model", default="digital_twin", help="digital_twin, simulated, or openretina:NAME")
    parser.add_argument("--sessions", nargs="*", help="recording sessions; all by default")
    parser.add_argument("--type", help="cell type, where the model knows the types of its neurons; all by default")
    parser.add_argument("--sample", type=int, help="choose so many of these neurons at random; all by default")
    parser.add_argument("--norm", type=float, default=30.0, help="L2 norm of each stimulus in the model's units")
    parser.add_argument("--restarts", type=int, default=4, help="initial stimuli of each neuron")
    parser.add_argument("--devices", type=int, default=1, help="share the neurons out among so many devices")
    parser.add_argument("--output", default="logs/population", help="where the results go, and are continued")
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    neurons = NeuronSelection(
        sessions=arguments.sessions,
        where={"type": arguments.type} if arguments.type else None,
        sample=arguments.sample,
    )
    meis = find_meis(
        model,
        neurons,
        norm=arguments.norm,
        restarts=arguments.restarts,
        directory=arguments.output,
        log_directory=arguments.output,
        devices=arguments.devices,
    )
    columns = ["score", "status", "steps", "score_spread", "restart_similarity"]
    print(meis[columns].to_dataframe()[columns].to_string())


if __name__ == "__main__":
    main()
