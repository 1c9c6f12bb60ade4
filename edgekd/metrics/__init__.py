"""Scores of predictions: the only definition of softmax, the mean over a clip's windows, accuracy, log loss and
calibration.

Training, evaluation, experiments, export and the runtime use it. numpy alone: no torch, no engine, no clip store, no
printing; scikit-learn only inside `svm`.
"""
