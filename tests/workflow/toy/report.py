from stages.computing import compute


def run(task, params, outputs):
    compute(task.job, "", outputs.path)
