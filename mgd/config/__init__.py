"""What an experiment is: frozen dataclasses, read from a config.py, changed by `key.sub=value`.

sections     data, model, train, evaluate, run: what every method shares
methods      a dataclass for each method, and METHODS, their names
experiment   the sections together, and what must hold between their values
read         config.py, overrides, dict -> Experiment, and back
"""

from mgd.config.experiment import Experiment
from mgd.config.methods import (
    CPS,
    CWD,
    KD,
    METHODS,
    MGD,
    Criterion,
    MeanTeacher,
    Method,
    Supervised,
    Taught,
    Teach,
    UniMatch,
    burn_in,
    is_offline,
    method_name,
)
from mgd.config.read import completed, family, fill_in, from_dict, load, override, to_dict
from mgd.config.sections import Data, Evaluate, Model, Run, Train

__all__ = [
    "CPS",
    "CWD",
    "KD",
    "METHODS",
    "MGD",
    "Criterion",
    "Data",
    "Evaluate",
    "Experiment",
    "MeanTeacher",
    "Method",
    "Model",
    "Run",
    "Supervised",
    "Taught",
    "Teach",
    "Train",
    "UniMatch",
    "burn_in",
    "completed",
    "family",
    "fill_in",
    "from_dict",
    "is_offline",
    "load",
    "method_name",
    "override",
    "to_dict",
]
