import importlib

from stages.computing import compute


def run(task, params, outputs):
    name = task.job.item.rpartition("-")[2]
    compute(
        task.job, [importlib.import_module(f"stages.attacks.{name}").SALT, params.values["attacks"][name]], outputs.path
    )
