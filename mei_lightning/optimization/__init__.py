"""The stimulus as the sole trainable parameter, and any number of neurons in the rows that devices have room for."""
