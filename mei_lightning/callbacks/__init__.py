"""Lightning callbacks: convergence of rows, a frozen model, stimuli in TensorBoard, the results on disk."""
