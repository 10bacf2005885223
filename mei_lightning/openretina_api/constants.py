"""Facts about the stimuli of Höfling et al. 2024 (eLife 86860), under openretina's names."""

FRAME_RATE_MODEL = 30.0
"""Frames per second (Hz)."""

STIMULUS_RANGE_CONSTRAINTS = {
    "norm": 30.0,
    "x_min_green": -0.654,
    "x_max_green": 6.269,
    "x_min_uv": -0.913,
    "x_max_uv": 6.269,
}
"""Norm and ranges of MEIs, in the model's units."""

pre_normalisation_values_18x16 = {
    "channel_0_mean": 37.417128327480455,
    "channel_0_std": 28.904812895781816,
    "channel_1_mean": 36.13151406772875,
    "channel_1_std": 39.84109959857139,
}
"""What the low-resolution model sees as 0 and as 1, on the projector's 8-bit scale, of green (0) and UV (1)."""

MEAN_STD_DICT_74x64 = {
    "channel_0_mean": 37.19756061097937,
    "channel_0_std": 30.26892576088715,
    "channel_1_mean": 36.76101593081903,
    "channel_1_std": 42.65469417011324,
    "joint_mean": 36.979288270899204,
    "joint_std": 36.98463253226166,
}
"""The same of the high-resolution model."""
